//! Page sizes of x86 paging.

/// A page size that some x86 paging mode offers.
///
/// Source: Intel SDM vol. 3, 4.1 "Paging Modes and Control Bits", table 4-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB: every mode.
    Size4K,
    /// 2 MiB: PAE, four-level and five-level paging.
    Size2M,
    /// 4 MiB: 32-bit two-level paging with PSE.
    Size4M,
    /// 1 GiB: four-level and five-level paging where CPUID shows it.
    Size1G,
}

impl PageSize {
    /// log2 of the size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size2M => 21,
            Self::Size4M => 22,
            Self::Size1G => 30,
        }
    }

    /// Bytes in a page of this size.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// 4 KiB frames in a page of this size.
    pub const fn frames(self) -> u64 {
        self.bytes() >> crate::PAGE_SHIFT
    }
}
