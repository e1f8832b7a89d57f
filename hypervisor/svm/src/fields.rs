//! The virtual machine control block (VMCB) as the hardware lays it out.
//!
//! Source: APM vol. 2 (24593, revision 3.42), appendix B "VMCB Layout": table B-1
//! "VMCB Layout, Control Area" and table B-2 "VMCB Layout, State Save Area".

use bitflags::bitflags;
use core::fmt;
use core::mem::{offset_of, size_of};
use volatile::VolatileRef;

/// A VMCB that the processor reads and writes behind the compiler's back.
pub(crate) type VmcbRef = VolatileRef<'static, Vmcb>;

/// The whole block: one page, control area first.
#[repr(C, align(4096))]
pub(crate) struct Vmcb {
    /// What to intercept, what to inject, why the guest left.
    pub(crate) control: ControlArea,
    /// The guest's state.
    pub(crate) save: SaveArea,
}

/// Offsets 0x000 to 0x3ff.
#[repr(C)]
pub(crate) struct ControlArea {
    pub(crate) cr_reads: u16,
    pub(crate) cr_writes: u16,
    pub(crate) dr_reads: u16,
    pub(crate) dr_writes: u16,
    pub(crate) exceptions: u32,
    pub(crate) misc1: u32,
    pub(crate) misc2: u32,
    pub(crate) misc3: u32,
    _reserved_018: [u8; 0x28],
    pub(crate) iopm_base: u64,
    pub(crate) msrpm_base: u64,
    pub(crate) tsc_offset: u64,
    pub(crate) asid: u32,
    pub(crate) tlb_control: u32,
    pub(crate) virtual_interrupt: u32,
    pub(crate) virtual_vector: u32,
    pub(crate) interrupt_state: u64,
    pub(crate) exit_code: u64,
    pub(crate) exit_info_1: u64,
    pub(crate) exit_info_2: u64,
    pub(crate) exit_int_info: u64,
    pub(crate) nested_control: u64,
    _reserved_098: [u8; 0x10],
    pub(crate) event_injection: u64,
    pub(crate) nested_cr3: u64,
    pub(crate) lbr_control: u64,
    pub(crate) clean: u32,
    _reserved_0c4: [u8; 4],
    pub(crate) next_rip: u64,
    pub(crate) bytes_fetched: u8,
    pub(crate) instruction_bytes: [u8; 15],
    _reserved_0e0: [u8; 0x320],
}

/// Offsets 0x400 to 0xfff.
#[repr(C)]
pub(crate) struct SaveArea {
    pub(crate) es: VmcbSegment,
    pub(crate) cs: VmcbSegment,
    pub(crate) ss: VmcbSegment,
    pub(crate) ds: VmcbSegment,
    pub(crate) fs: VmcbSegment,
    pub(crate) gs: VmcbSegment,
    pub(crate) gdtr: VmcbSegment,
    pub(crate) ldtr: VmcbSegment,
    pub(crate) idtr: VmcbSegment,
    pub(crate) tr: VmcbSegment,
    _reserved_0a0: [u8; 0x2b],
    pub(crate) cpl: u8,
    _reserved_0cc: [u8; 4],
    pub(crate) efer: u64,
    _reserved_0d8: [u8; 0x70],
    pub(crate) cr4: u64,
    pub(crate) cr3: u64,
    pub(crate) cr0: u64,
    pub(crate) dr7: u64,
    pub(crate) dr6: u64,
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    _reserved_180: [u8; 0x58],
    pub(crate) rsp: u64,
    _reserved_1e0: [u8; 0x18],
    pub(crate) rax: u64,
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) sfmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) cr2: u64,
    _reserved_248: [u8; 0x20],
    pub(crate) g_pat: u64,
    pub(crate) debug_ctl: u64,
    _reserved_278: [u8; 0x988],
}

/// A segment or descriptor-table register of the save area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct VmcbSegment {
    pub(crate) selector: u16,
    /// Descriptor bits 40–47 in bits 0–7, bits 52–55 in bits 8–11.
    pub(crate) attributes: u16,
    pub(crate) limit: u32,
    pub(crate) base: u64,
}

/// Reads one field of a [`VmcbRef`]: `get!(vmcb, control.exit_code)`.
macro_rules! get {
    ($vmcb:expr, $($place:ident).+) => {{
        let pointer = $vmcb.as_ptr();
        volatile::map_field!(pointer.$($place).+).read()
    }};
}

/// Writes one field of a [`VmcbRef`]: `set!(vmcb, save.rip, value)`.
macro_rules! set {
    ($vmcb:expr, $($place:ident).+, $value:expr) => {{
        let value = $value;
        let pointer = $vmcb.as_mut_ptr();
        volatile::map_field!(pointer.$($place).+).write(value)
    }};
}

pub(crate) use {get, set};

/// Field, offset in the manual, offset here: a wrong layout does not compile.
macro_rules! assert_offsets {
    ($area:ty: $($field:ident = $offset:literal),* $(,)?) => {
        $(const _: () = assert!(offset_of!($area, $field) == $offset);)*
    };
}

assert_offsets!(ControlArea:
    cr_reads = 0x000, cr_writes = 0x002, dr_reads = 0x004, dr_writes = 0x006,
    exceptions = 0x008, misc1 = 0x00c, misc2 = 0x010, misc3 = 0x014,
    iopm_base = 0x040, msrpm_base = 0x048, tsc_offset = 0x050, asid = 0x058,
    tlb_control = 0x05c, virtual_interrupt = 0x060, virtual_vector = 0x064,
    interrupt_state = 0x068, exit_code = 0x070, exit_info_1 = 0x078, exit_info_2 = 0x080,
    exit_int_info = 0x088, nested_control = 0x090, event_injection = 0x0a8,
    nested_cr3 = 0x0b0, lbr_control = 0x0b8, clean = 0x0c0, next_rip = 0x0c8,
    bytes_fetched = 0x0d0, instruction_bytes = 0x0d1,
);
assert_offsets!(SaveArea:
    es = 0x000, cs = 0x010, ss = 0x020, ds = 0x030, fs = 0x040, gs = 0x050, gdtr = 0x060,
    ldtr = 0x070, idtr = 0x080, tr = 0x090, cpl = 0x0cb, efer = 0x0d0, cr4 = 0x148,
    cr3 = 0x150, cr0 = 0x158, dr7 = 0x160, dr6 = 0x168, rflags = 0x170, rip = 0x178,
    rsp = 0x1d8, rax = 0x1f8, star = 0x200, lstar = 0x208, cstar = 0x210, sfmask = 0x218,
    kernel_gs_base = 0x220, sysenter_cs = 0x228, sysenter_esp = 0x230, sysenter_eip = 0x238,
    cr2 = 0x240, g_pat = 0x268, debug_ctl = 0x270,
);
assert_offsets!(Vmcb: control = 0x000, save = 0x400);
assert_offsets!(VmcbSegment: selector = 0, attributes = 2, limit = 4, base = 8);
const _: () = assert!(size_of::<ControlArea>() == 0x400 && size_of::<Vmcb>() == 0x1000);

bitflags! {
    /// The field at 0x060: virtual interrupt delivery.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct VirtualInterrupt: u32 {
        /// The virtual task priority: the guest's CR8.
        const TPR = 0xf;
        /// A virtual interrupt is pending; cleared when the guest takes it.
        const PENDING = 1 << 8;
        /// Its priority is not compared with the task priority.
        const IGNORE_TPR = 1 << 20;
        /// Guest RFLAGS.IF and CR8 concern virtual interrupts only.
        const MASKING = 1 << 24;
    }

    /// The field at 0x0c0: parts that the processor may take from its cache.
    ///
    /// Source: APM vol. 2, 15.15.3 "VMCB Clean Field".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Clean: u32 {
        /// Intercepts, TSC offset.
        const INTERCEPTS = 1 << 0;
        /// The permission maps.
        const PERMISSION_MAPS = 1 << 1;
        /// The ASID.
        const ASID = 1 << 2;
        /// The virtual interrupt field and vector.
        const VIRTUAL_INTERRUPT = 1 << 3;
        /// Nested paging: enable, nCR3, PAT.
        const NESTED_PAGING = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const DESCRIPTOR_TABLES = 1 << 7;
        /// CS, DS, ES, SS and the CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
    }
}

/// Bit 0 of the field at 0x068: STI or MOV SS blocks interrupts.
pub(crate) const INTERRUPT_SHADOW: u64 = 1 << 0;
/// Bit 0 of the field at 0x090: nested paging.
pub(crate) const NESTED_PAGING: u64 = 1 << 0;

/// What VMRUN flushes first: the field at 0x05c.
///
/// Source: APM vol. 2, 15.16.1 "TLB Flush".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum TlbControl {
    /// Nothing.
    Keep = 0,
    /// Every translation of every ASID.
    FlushAll = 1,
    /// Every translation of this ASID.
    FlushAsid = 3,
}

/// Every field's name and value.
macro_rules! field_values {
    ($vmcb:expr; $($area:ident: $($field:ident)*;)*) => {
        [$($((stringify!($field), u64::from(get!($vmcb, $area.$field))),)*)*]
    };
}

/// Every segment's name and value.
macro_rules! segment_values {
    ($vmcb:expr; $($field:ident)*) => { [$((stringify!($field), get!($vmcb, save.$field)),)*] };
}

/// The block as lines, by the names of the fields here.
pub(crate) fn dump(vmcb: &VmcbRef, out: &mut dyn fmt::Write) -> fmt::Result {
    for (name, segment) in segment_values!(vmcb; es cs ss ds fs gs gdtr ldtr idtr tr) {
        let VmcbSegment { selector, attributes, limit, base } = segment;
        write!(out, "{name} = {selector:#x} base {base:#x} limit {limit:#x}")?;
        writeln!(out, " attributes {attributes:#x}")?;
    }
    let fields = field_values!(vmcb;
        control: exit_code exit_info_1 exit_info_2 exit_int_info event_injection next_rip;
        control: cr_reads cr_writes dr_reads dr_writes exceptions misc1 misc2 misc3;
        control: iopm_base msrpm_base tsc_offset asid tlb_control clean;
        control: virtual_interrupt virtual_vector interrupt_state;
        control: nested_control nested_cr3 lbr_control;
        save: rip rsp rax rflags cpl cr0 cr2 cr3 cr4 efer dr6 dr7 g_pat debug_ctl;
        save: star lstar cstar sfmask kernel_gs_base sysenter_cs sysenter_esp sysenter_eip;
    );
    for (name, value) in fields {
        writeln!(out, "{name} = {value:#x}")?;
    }
    Ok(())
}
