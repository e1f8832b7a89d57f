//! The mode that a guest's code runs in, as far as decoding and addressing care.

use anchorite_vcpu::{ControlRegister, Cr0, Cr4, Rflags, SegmentAttributes, SegmentRegister, Vcpu};

/// The default operand and address size of a code segment, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, 16-bit protected mode.
    Bits16,
    /// 32-bit protected mode and compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeSize {
    /// The size of the code that a vCPU runs.
    #[inline]
    pub fn of(vcpu: &impl Vcpu) -> Self {
        if vcpu.runs_64_bit_code() {
            return Self::Bits64;
        }
        let code = vcpu.segment(SegmentRegister::Cs).attributes;
        let cr0 = Cr0::from_bits_retain(vcpu.control(ControlRegister::Cr0));
        let virtual_8086 = vcpu.regs().rflags & Rflags::VM.bits() != 0;
        if cr0.contains(Cr0::PE) && !virtual_8086 && code.contains(SegmentAttributes::DEFAULT_32) {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }

    /// 16, 32 or 64.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }

    /// The bits of RIP that the guest sees.
    pub const fn instruction_pointer_mask(self) -> u64 {
        match self {
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0xffff_ffff,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// How addresses are formed and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Size of the code segment.
    pub code: CodeSize,
    /// Bytes of the stack pointer that PUSH and POP use: 2, 4 or 8.
    pub stack_bytes: u8,
    /// Segment types are checked and faults push error codes: protected mode.
    pub protected: bool,
    /// Bits of a canonical linear address: 48, or 57 with CR4.LA57.
    pub linear_bits: u8,
}

impl Mode {
    /// Flat 64-bit mode with four-level paging.
    pub const LONG: Self =
        Self { code: CodeSize::Bits64, stack_bytes: 8, protected: true, linear_bits: 48 };
    /// Flat 32-bit protected mode.
    pub const PROTECTED: Self =
        Self { code: CodeSize::Bits32, stack_bytes: 4, protected: true, linear_bits: 48 };
    /// Real mode.
    pub const REAL: Self =
        Self { code: CodeSize::Bits16, stack_bytes: 2, protected: false, linear_bits: 48 };

    /// The mode that a vCPU is in.
    pub fn of(vcpu: &impl Vcpu) -> Self {
        let cr0 = Cr0::from_bits_retain(vcpu.control(ControlRegister::Cr0));
        let virtual_8086 = vcpu.regs().rflags & Rflags::VM.bits() != 0;
        let code = CodeSize::of(vcpu);
        Self {
            code,
            stack_bytes: stack_bytes(vcpu, code),
            protected: cr0.contains(Cr0::PE) && !virtual_8086,
            linear_bits: linear_bits(vcpu),
        }
    }

    /// Whether `address` is canonical. Always so outside 64-bit mode, where linear
    /// addresses have 32 bits.
    pub const fn is_canonical(self, address: u64) -> bool {
        address.wrapping_add(1 << (self.linear_bits - 1)) >> self.linear_bits == 0
    }
}

fn stack_bytes(vcpu: &impl Vcpu, code: CodeSize) -> u8 {
    if code == CodeSize::Bits64 {
        return 8;
    }
    let stack = vcpu.segment(SegmentRegister::Ss).attributes;
    if stack.contains(SegmentAttributes::DEFAULT_32) { 4 } else { 2 }
}

fn linear_bits(vcpu: &impl Vcpu) -> u8 {
    let five_levels = vcpu.control(ControlRegister::Cr4) & Cr4::LA57.bits() != 0;
    if five_levels { 57 } else { 48 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses_repeat_their_highest_bit() {
        for address in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert!(Mode::LONG.is_canonical(address), "{address:#x}");
        }
        for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 56, 1 << 63] {
            assert!(!Mode::LONG.is_canonical(address), "{address:#x}");
        }
        let wide = Mode { linear_bits: 57, ..Mode::LONG };
        assert!(wide.is_canonical(0x8000_0000_0000) && !wide.is_canonical(1 << 56));
    }
}
