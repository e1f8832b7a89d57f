//! Segments and descriptor tables.

use bitflags::bitflags;

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentRegister {
    /// ES, encoding 0.
    Es,
    /// CS, encoding 1.
    Cs,
    /// SS, encoding 2.
    Ss,
    /// DS, encoding 3.
    Ds,
    /// FS, encoding 4.
    Fs,
    /// GS, encoding 5.
    Gs,
    /// The local descriptor table register.
    Ldtr,
    /// The task register.
    Tr,
}

impl SegmentRegister {
    /// All eight, in the order VMCS fields have them.
    pub const ALL: [Self; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];
}

bitflags! {
    /// Access rights in the layout of a VMCS guest access-rights field.
    ///
    /// Bits 0–3 hold the type, 5–6 the DPL. SVM packs bits 12–15 down to 8–11 and
    /// knows no unusable bit; its backend converts.
    ///
    /// Source: SDM vol. 3, 25.4.1 "Guest Register State", table 25-2.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SegmentAttributes: u32 {
        /// Bits 0–3: segment type.
        const TYPE = 0xf;
        /// Bit 4: code or data rather than a system segment.
        const CODE_OR_DATA = 1 << 4;
        /// Bits 5–6: descriptor privilege level.
        const DPL = 3 << 5;
        /// Bit 7: present.
        const PRESENT = 1 << 7;
        /// Bit 12: available to software.
        const AVAILABLE = 1 << 12;
        /// Bit 13: 64-bit code segment.
        const LONG = 1 << 13;
        /// Bit 14: 32-bit default operand size.
        const DEFAULT_32 = 1 << 14;
        /// Bit 15: the limit counts 4 KiB units.
        const GRANULARITY = 1 << 15;
        /// Bit 16: the register holds a null selector and may not be used.
        const UNUSABLE = 1 << 16;
    }
}

impl SegmentAttributes {
    /// The descriptor privilege level, 0–3.
    pub const fn dpl(self) -> u8 {
        (self.bits() >> 5) as u8 & 3
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// First linear address.
    pub base: u64,
    /// Last offset in bytes (already expanded where the granularity bit is set).
    pub limit: u32,
    /// Access rights.
    pub attributes: SegmentAttributes,
}

impl Segment {
    /// A real-mode segment: base = selector × 16, limit 64 KiB, accessed data or code.
    pub const fn real_mode(selector: u16, code: bool) -> Self {
        let kind = if code { 0x9b } else { 0x93 };
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            attributes: SegmentAttributes::from_bits_retain(kind),
        }
    }

    /// A flat 4 GiB ring-0 segment: 32-bit (or, with `long`, 64-bit) code, or data.
    pub const fn flat(selector: u16, code: bool, long: bool) -> Self {
        let kind = if code { 0x9b } else { 0x93 };
        let size = if long && code { 0xa000 } else { 0xc000 };
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes: SegmentAttributes::from_bits_retain(kind | size),
        }
    }

    /// A register that holds a null selector.
    pub const fn unusable() -> Self {
        Self { selector: 0, base: 0, limit: 0, attributes: SegmentAttributes::UNUSABLE }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Offset of the table's last byte.
    pub limit: u16,
}
