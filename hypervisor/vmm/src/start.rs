//! The state in which a guest starts.

use anchorite_vcpu::{
    ControlRegister, Cr0, Cr4, DescriptorTable, Efer, Gpr, GuestMsr, Registers, Rflags, Segment,
    SegmentAttributes, SegmentRegister, Vcpu,
};

/// IA32_PAT after reset. Source: SDM vol. 3, 12.12.4 "Programming the PAT".
const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;
/// DR6 and DR7 after reset. Source: SDM vol. 3, table 10-1.
const DR6_AFTER_RESET: u64 = 0xffff_0ff0;
const DR7_AFTER_RESET: u64 = 0x400;

/// The mode a guest starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// Real mode; CS and the data segments hold these selectors.
    Real {
        /// CS.
        code: u16,
        /// SS, DS, ES, FS, GS.
        data: u16,
    },
    /// 32-bit protected mode without paging, all segments flat: what multiboot, PVH
    /// and the 32-bit Linux boot protocol ask for.
    Protected {
        /// CS.
        code: u16,
        /// SS, DS, ES, FS, GS.
        data: u16,
    },
    /// 64-bit mode with four-level paging, all segments flat.
    Long {
        /// CS.
        code: u16,
        /// SS, DS, ES, FS, GS.
        data: u16,
        /// CR3: the guest's own tables, in guest memory.
        cr3: u64,
    },
}

/// The whole state of a vCPU about to execute its first instruction.
///
/// GDTR is loaded with `gdt`, but the descriptors in memory are the caller's affair:
/// segment registers hold their hidden parts already, so a guest that loads its own
/// table first, as multiboot demands, needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartState {
    /// The mode.
    pub mode: StartMode,
    /// General registers, RIP (an offset into CS) and RFLAGS.
    pub registers: Registers,
    /// GDTR.
    pub gdt: DescriptorTable,
}

impl StartState {
    /// Real mode at `cs:ip`, everything else zero.
    pub fn real(cs: u16, ip: u16) -> Self {
        Self::new(StartMode::Real { code: cs, data: 0 }, ip.into())
    }

    /// Flat 32-bit protected mode at `entry`, with the selectors that the Linux boot
    /// protocol names.
    pub fn protected(entry: u32) -> Self {
        Self::new(StartMode::Protected { code: 0x10, data: 0x18 }, entry.into())
    }

    /// 64-bit mode at `entry` with paging by the tables at `cr3`.
    pub fn long(entry: u64, cr3: u64) -> Self {
        Self::new(StartMode::Long { code: 0x10, data: 0x18, cr3 }, entry)
    }

    /// The same with `register` holding `value`.
    #[must_use]
    pub fn with(mut self, register: Gpr, value: u64) -> Self {
        self.registers[register] = value;
        self
    }

    /// The same with GDTR loaded.
    #[must_use]
    pub fn with_gdt(mut self, gdt: DescriptorTable) -> Self {
        self.gdt = gdt;
        self
    }

    fn new(mode: StartMode, rip: u64) -> Self {
        let registers = Registers { rip, rflags: Rflags::FIXED.bits(), ..Registers::default() };
        Self { mode, registers, gdt: DescriptorTable { base: 0, limit: 0xffff } }
    }

    /// Gives `vcpu` this state, and what else a CPU has after reset.
    pub(crate) fn apply(&self, vcpu: &mut impl Vcpu) {
        *vcpu.regs_mut() = self.registers.clone();
        self.apply_control(vcpu);
        self.apply_segments(vcpu);

        vcpu.set_gdtr(self.gdt);
        vcpu.set_idtr(DescriptorTable { base: 0, limit: self.idt_limit() });
        vcpu.set_msr(GuestMsr::Pat, PAT_AFTER_RESET);
        vcpu.set_debug_register(6, DR6_AFTER_RESET);
        vcpu.set_debug_register(7, DR7_AFTER_RESET);
        vcpu.set_interrupt_shadow(false);
    }

    fn apply_control(&self, vcpu: &mut impl Vcpu) {
        let (cr0, cr4, efer, cr3) = match self.mode {
            StartMode::Real { .. } => (Cr0::empty(), Cr4::empty(), Efer::empty(), 0),
            StartMode::Protected { .. } => (Cr0::PE, Cr4::empty(), Efer::empty(), 0),
            StartMode::Long { cr3, .. } => {
                (Cr0::PE | Cr0::PG | Cr0::WP, Cr4::PAE, Efer::LME | Efer::LMA, cr3)
            }
        };
        vcpu.set_control(ControlRegister::Efer, efer.bits());
        vcpu.set_control(ControlRegister::Cr4, cr4.bits());
        vcpu.set_control(ControlRegister::Cr3, cr3);
        vcpu.set_control(ControlRegister::Cr2, 0);
        vcpu.set_control(ControlRegister::Cr0, (cr0 | Cr0::ET).bits());
        vcpu.set_control(ControlRegister::Cr8, 0);
    }

    fn apply_segments(&self, vcpu: &mut impl Vcpu) {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ldtr, Ss, Tr};

        let (code, data) = match self.mode {
            StartMode::Real { code, data } => {
                (Segment::real_mode(code, true), Segment::real_mode(data, false))
            }
            StartMode::Protected { code, data } => {
                (Segment::flat(code, true, false), Segment::flat(data, false, false))
            }
            StartMode::Long { code, data, .. } => {
                (Segment::flat(code, true, true), Segment::flat(data, false, true))
            }
        };
        vcpu.set_segment(Cs, code);
        for register in [Ss, Ds, Es, Fs, Gs] {
            vcpu.set_segment(register, data);
        }
        vcpu.set_segment(Ldtr, Segment::unusable());
        vcpu.set_segment(Tr, busy_tss());
    }

    const fn idt_limit(&self) -> u16 {
        match self.mode {
            StartMode::Real { .. } => 0x3ff,
            StartMode::Protected { .. } | StartMode::Long { .. } => 0,
        }
    }
}

/// TR as after reset, but busy: VMX enters with no other.
fn busy_tss() -> Segment {
    let attributes = SegmentAttributes::from_bits_retain(0x8b);
    Segment { selector: 0, base: 0, limit: 0xffff, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeVcpu;

    fn started(state: &StartState) -> FakeVcpu {
        let mut vcpu = FakeVcpu::default();
        state.apply(&mut vcpu);
        vcpu
    }

    #[test]
    fn real_mode_starts_at_segment_and_offset_with_paging_off() {
        let vcpu = started(&StartState::real(0xf000, 0xfff0).with(Gpr::Rdx, 0x80));
        let cs = vcpu.segment(SegmentRegister::Cs);
        assert_eq!((cs.selector, cs.base, vcpu.regs().rip), (0xf000, 0xf_0000, 0xfff0));
        assert_eq!(vcpu.control(ControlRegister::Cr0), Cr0::ET.bits());
        assert_eq!((vcpu.regs()[Gpr::Rdx], vcpu.regs().rflags), (0x80, 2));
        assert_eq!(vcpu.idtr(), DescriptorTable { base: 0, limit: 0x3ff });
    }

    #[test]
    fn protected_mode_starts_flat_without_paging() {
        let gdt = DescriptorTable { base: 0x500, limit: 31 };
        let vcpu = started(&StartState::protected(0x10_0000).with_gdt(gdt));
        for register in [SegmentRegister::Cs, SegmentRegister::Ss, SegmentRegister::Gs] {
            let segment = vcpu.segment(register);
            assert_eq!((segment.base, segment.limit), (0, u32::MAX), "{register:?}");
            assert!(segment.attributes.contains(SegmentAttributes::DEFAULT_32));
        }
        assert_eq!(vcpu.control(ControlRegister::Cr0), (Cr0::PE | Cr0::ET).bits());
        assert_eq!((vcpu.gdtr(), vcpu.control(ControlRegister::Cr4)), (gdt, 0));
    }

    #[test]
    fn long_mode_starts_with_paging_by_the_tables_given() {
        let vcpu = started(&StartState::long(0xffff_ffff_8000_0000, 0x7000));
        assert_eq!(vcpu.control(ControlRegister::Cr3), 0x7000);
        let efer = Efer::from_bits_retain(vcpu.control(ControlRegister::Efer));
        assert!(efer.contains(Efer::LME));
        let cr0 = Cr0::from_bits_retain(vcpu.control(ControlRegister::Cr0));
        assert!(cr0.contains(Cr0::PE | Cr0::PG));
        assert!(vcpu.control(ControlRegister::Cr4) & Cr4::PAE.bits() != 0);
        let cs = vcpu.segment(SegmentRegister::Cs).attributes;
        assert!(
            cs.contains(SegmentAttributes::LONG) && !cs.contains(SegmentAttributes::DEFAULT_32)
        );
    }

    #[test]
    fn the_task_register_is_busy_and_debug_registers_are_as_after_reset() {
        let vcpu = started(&StartState::protected(0));
        assert_eq!(vcpu.segment(SegmentRegister::Tr).attributes.bits() & 0xf, 0xb);
        assert_eq!((vcpu.debug_register(6), vcpu.debug_register(7)), (0xffff_0ff0, 0x400));
        assert_eq!(vcpu.msr(GuestMsr::Pat), 0x0007_0406_0007_0406);
    }
}
