//! The last steps before Hermit runs.

#![expect(unsafe_code, reason = "builds the address space and jumps into the kernel")]

use super::information::{BootInformation, FixedString, RSDP_BYTES};
use super::layout::Layout;
use super::tables::Tables;
use super::{device_tree, loaders};
use crate::{clock, serial};
use anchorite_abi::Options;
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::num::{NonZeroU16, NonZeroU64};
use core::ops::Range;
use core::ptr::{addr_of, from_ref};
use hermit_entry::boot_info::{
    BootInfo, HardwareInfo, LoadInfo, PlatformInfo, RawBootInfo, TlsInfo,
};

core::arch::global_asm!(include_str!("boot.S"), options(att_syntax));

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    static boot_stack_bottom: u8;
    static boot_tls: [u64; 4];
    static boot_tsc: u64;
    fn _start(boot_info: *const RawBootInfo, cpu: u32) -> !;
}

/// What the start of the machine left for the rest of the run.
#[derive(Debug)]
pub struct Boot {
    /// What the boot loader told.
    pub information: BootInformation,
    /// Who owns which RAM.
    pub layout: Layout,
    /// The image's physical range.
    pub image: Range<u64>,
    /// The TSC at the first instruction of the image.
    pub entry_tsc: u64,
    /// The TSC's rate in MHz, where the command line gives it.
    pub tsc_mhz: Option<u16>,
}

/// Everything that `boot_main` fills and that must outlive it. All zero at first, so
/// that its third of a MiB takes no room in the image file, and filled in place: the
/// boot stack is small.
struct Handover {
    tables: Tables,
    boot: Boot,
    /// Whether `boot` has been filled.
    ready: bool,
    hermit_command_line: FixedString<64>,
    hermit_multiboot: HermitMultiboot,
    rsdp: [u8; RSDP_BYTES],
    device_tree: [u8; device_tree::BYTES],
    raw: MaybeUninit<RawBootInfo>,
}

/// Written by `boot_main` alone, before any other code or CPU runs; read-only after.
struct HandoverCell(UnsafeCell<Handover>);

// SAFETY: see the type's comment: after boot_main only shared references exist.
unsafe impl Sync for HandoverCell {}

static HANDOVER: HandoverCell = HandoverCell(UnsafeCell::new(Handover {
    tables: Tables::EMPTY,
    boot: Boot {
        information: BootInformation::EMPTY,
        layout: Layout::EMPTY,
        image: 0..0,
        entry_tsc: 0,
        tsc_mhz: None,
    },
    ready: false,
    hermit_command_line: FixedString::new(),
    hermit_multiboot: HermitMultiboot::EMPTY,
    rsdp: [0; RSDP_BYTES],
    device_tree: [0; device_tree::BYTES],
    raw: MaybeUninit::zeroed(),
}));

/// What the start of the machine left for the rest of the run.
///
/// # Panics
/// Never in an image that was entered through `boot_entry`.
pub fn boot() -> &'static Boot {
    // SAFETY: boot_main has ended (Hermit, which it started, called us), so that
    // nobody writes any more.
    let handover = unsafe { &*HANDOVER.0.get() };
    assert!(handover.ready, "boot_main ran first");
    &handover.boot
}

/// The multiboot 1 structure that Hermit reads: one RAM region, its window.
///
/// Source: Multiboot Specification 0.6.96, 3.3 "Boot information format".
#[repr(C)]
struct HermitMultiboot {
    flags: u32,
    unused: [u32; 10],
    map_length: u32,
    map_address: u32,
    unused_too: [u32; 16],
    entry: HermitMemoryRegion,
}

#[repr(C, packed)]
struct HermitMemoryRegion {
    size: u32,
    base: u64,
    length: u64,
    kind: u32,
}

impl HermitMultiboot {
    const EMPTY: Self = Self {
        flags: 0,
        unused: [0; 10],
        map_length: 0,
        map_address: 0,
        unused_too: [0; 16],
        entry: HermitMemoryRegion { size: 0, base: 0, length: 0, kind: 0 },
    };

    fn fill(&mut self, window: &Range<u64>) {
        const FLAG_MEMORY_MAP: u32 = 1 << 6;
        const AVAILABLE: u32 = 1;
        self.flags = FLAG_MEMORY_MAP;
        // The size does not count itself.
        self.entry.size = (size_of::<HermitMemoryRegion>() - size_of::<u32>()) as u32;
        self.entry.kind = AVAILABLE;
        self.entry.base = window.start;
        self.entry.length = window.end - window.start;
        self.map_length = size_of::<HermitMemoryRegion>() as u32;
        self.map_address = core::ptr::addr_of!(self.entry).addr() as u32;
    }
}

/// Called once by `boot.S` with what the loader left in EAX and EBX.
#[unsafe(no_mangle)]
extern "C" fn boot_main(magic: u32, address: u32) -> ! {
    // SAFETY: this runs once, alone, before anything reads the cell.
    let handover = unsafe { &mut *HANDOVER.0.get() };
    // SAFETY: magic and address come unchanged from boot.S, which mapped 4 GiB 1:1.
    let read = unsafe { loaders::read(magic, address, &mut handover.boot.information) };
    if let Err(error) = read {
        refuse(format_args!("cannot read the boot loader's information: {error:x?}"));
    }
    let image = image_range();
    let options = options(&handover.boot.information);
    let (window, rate) = (options.hermit_bytes(), clock::rate_for_hermit(&options));
    handover.boot.tsc_mhz = options.tsc_mhz;
    handover.boot.layout = match Layout::split(&handover.boot.information, image.clone(), window) {
        Ok(layout) => layout,
        Err(error) => refuse(format_args!("{error}")),
    };
    let root = handover.tables.fill(image.clone(), has_one_gib_pages());
    prepare_hermit(handover, &image, rate);
    handover.boot.image = image;
    // SAFETY: boot.S wrote the word before it called us.
    handover.boot.entry_tsc = unsafe { boot_tsc };
    handover.ready = true;
    let raw = handover.raw.as_ptr();
    // SAFETY: `root` maps the image 1:1, so the next instruction is still there;
    // Hermit's `_start` wants the lowest address of its stack in RSP.
    unsafe {
        core::arch::asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "jmp {start}",
            root = in(reg) root,
            stack = in(reg) addr_of!(boot_stack_bottom).addr(),
            start = in(reg) _start as usize,
            in("rdi") raw,
            in("rsi") 0u64,
            options(noreturn),
        )
    }
}

/// What the command line asks for. One that cannot be obeyed is refused later, when there
/// is a console.
fn options(information: &BootInformation) -> Options<'_> {
    Options::parse(information.command_line.as_str()).unwrap_or_default()
}

/// `rate` is what Hermit is to take for the TSC's, in MHz, where it need not measure it.
fn prepare_hermit(handover: &mut Handover, image: &Range<u64>, rate: Option<u64>) {
    handover.hermit_multiboot.fill(&handover.boot.layout.hermit);
    if let Some(mhz) = rate {
        let mut line = LineBuffer { bytes: [0; 64], used: 0 };
        let _ = write!(line, "anchorite -freq {mhz}");
        handover.hermit_command_line.set(&line.bytes[..line.used]);
    }
    let mut device_tree_address = None;
    if let Some(rsdp) = handover.boot.information.rsdp {
        handover.rsdp = rsdp;
        let address = handover.rsdp.as_ptr().addr() as u64;
        handover.device_tree = device_tree::build(address, RSDP_BYTES as u32);
        device_tree_address = NonZeroU64::new(handover.device_tree.as_ptr().addr() as u64);
    }
    // SAFETY: the cell is static and is not written again after boot_main.
    let command_line: &'static str = unsafe { &*from_ref(handover.hermit_command_line.as_str()) };
    handover.raw.write(RawBootInfo::from(BootInfo {
        hardware_info: HardwareInfo {
            phys_addr_range: image.start..handover.boot.layout.top,
            serial_port_base: NonZeroU16::new(serial::COM1),
            device_tree: device_tree_address,
        },
        load_info: LoadInfo { kernel_image_addr_range: image.clone(), tls_info: tls() },
        platform_info: PlatformInfo::Multiboot {
            command_line: Some(command_line),
            multiboot_info_addr:
                NonZeroU64::new(from_ref(&handover.hermit_multiboot).addr() as u64)
                    .unwrap_or(NonZeroU64::MIN),
        },
    }));
}

fn image_range() -> Range<u64> {
    addr_of!(__image_start).addr() as u64..addr_of!(__image_end).addr() as u64
}

fn tls() -> Option<TlsInfo> {
    // SAFETY: boot.S defines these four words; volatile, because the compiler may
    // not assume that symbol values differ from zero.
    let [start, filesz, memsz, align] = unsafe { addr_of!(boot_tls).read_volatile() };
    (memsz != 0).then_some(TlsInfo { start, filesz, memsz, align })
}

fn has_one_gib_pages() -> bool {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    // SAFETY: CPUID exists on every 64-bit CPU, and this leaf on every one that
    // has long mode.
    let features = unsafe { core::arch::x86_64::__cpuid(EXTENDED_FEATURES) };
    features.edx & (1 << 26) != 0
}

/// Says why the machine cannot start, and ends the run.
fn refuse(reason: core::fmt::Arguments<'_>) -> ! {
    let _ = writeln!(serial::Serial, "verdict: error {reason}");
    crate::power::end_run(crate::power::STATUS_ERROR)
}

struct LineBuffer {
    bytes: [u8; 64],
    used: usize,
}

impl Write for LineBuffer {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.used + text.len();
        self.bytes
            .get_mut(self.used..end)
            .ok_or(core::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}
