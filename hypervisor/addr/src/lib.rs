//! Typed addresses and frame numbers.
//!
//! Three address spaces meet in a hypervisor, and mixing them up is its classic
//! bug. Each value here carries its space as a type parameter, in three layers:
//!
//! | layer | type | guest-virtual | guest-physical | host-physical |
//! |---|---|---|---|---|
//! | any byte | [`Addr`] | [`Gva`] | [`Gpa`] | [`Hpa`] |
//! | page-aligned | [`PageAddr`] | | [`GpaPage`] | [`HpaPage`] |
//! | frame number | [`Frame`] | | [`Gfn`] | [`Hfn`] |
//!
//! There is no `Add<Self>` and no `From<u64>`: arithmetic is a named, checked
//! method, and a number becomes an address only through [`Addr::new`].
#![no_std]
#![forbid(unsafe_code)]

mod size;
mod space;

pub use size::PageSize;
pub use space::{GuestPhys, GuestVirt, HostPhys, Space};

use core::fmt;
use core::marker::PhantomData;

/// Bytes in the smallest page.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;

/// A byte address in the space `S`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr<S>(u64, PhantomData<S>);

/// The address of a 4 KiB page in the space `S`; its low 12 bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageAddr<S>(Frame<S>);

/// A 4 KiB frame number in the space `S`: an address shifted right by 12.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame<S>(u64, PhantomData<S>);

/// A guest-virtual (linear) address.
pub type Gva = Addr<GuestVirt>;
/// A guest-physical address.
pub type Gpa = Addr<GuestPhys>;
/// A host-physical address.
pub type Hpa = Addr<HostPhys>;
/// A page-aligned guest-physical address.
pub type GpaPage = PageAddr<GuestPhys>;
/// A page-aligned host-physical address.
pub type HpaPage = PageAddr<HostPhys>;
/// A guest frame number.
pub type Gfn = Frame<GuestPhys>;
/// A host frame number.
pub type Hfn = Frame<HostPhys>;

impl<S: Space> Addr<S> {
    /// The address with the numeric value `value`.
    pub const fn new(value: u64) -> Self {
        Self(value, PhantomData)
    }

    /// The numeric value, for hardware registers and table entries.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The frame that holds this byte.
    pub const fn frame(self) -> Frame<S> {
        Frame::new(self.0 >> PAGE_SHIFT)
    }

    /// The page that holds this byte.
    pub const fn page(self) -> PageAddr<S> {
        PageAddr(self.frame())
    }

    /// Bytes between the start of the 4 KiB page and this address, below 4096.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }

    /// Bytes between the start of the page of `size` that holds it and this address.
    pub const fn offset_in(self, size: PageSize) -> u64 {
        self.0 & (size.bytes() - 1)
    }

    /// This address plus `bytes`, or `None` where that passes 2^64 - 1.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self::new(sum)),
            None => None,
        }
    }

    /// This address plus `bytes` modulo 2^64, as an effective address is formed.
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        Self::new(self.0.wrapping_add(bytes))
    }

    /// Bytes from `base` up to this address, or `None` where `base` lies above.
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// Whether the address is a multiple of `size`.
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.offset_in(size) == 0
    }

    /// The start of the page of `size` that holds this address.
    #[must_use]
    pub const fn align_down(self, size: PageSize) -> Self {
        Self::new(self.0 & !(size.bytes() - 1))
    }

    /// The first multiple of `size` at or above, or `None` past 2^64 - 1.
    pub const fn align_up(self, size: PageSize) -> Option<Self> {
        match self.checked_add(size.bytes() - 1) {
            Some(sum) => Some(sum.align_down(size)),
            None => None,
        }
    }

    /// Nine index bits of this address at a table level: 1 is the leaf table.
    ///
    /// Source: Intel SDM vol. 3, 4.5.4 "Linear-Address Translation with 4-Level
    /// Paging and 5-Level Paging".
    pub const fn table_index(self, level: u8) -> usize {
        (self.0 >> (PAGE_SHIFT + 9 * (level as u32 - 1))) as usize & 0x1ff
    }

    /// Where in a table of this level, 1 is the leaf table, the entry for this address stands: its
    /// offset in bytes, eight times the index, by one shift.
    #[inline]
    pub const fn table_offset(self, level: u8) -> u64 {
        // The index's lowest bit, among the address bits shifted by 9: a byte offset.
        self.0 >> (9 * level as u32) & 0xff8
    }
}

impl<S: Space> PageAddr<S> {
    /// The page at `addr`, or `None` where the low 12 bits are not zero.
    pub const fn new(addr: Addr<S>) -> Option<Self> {
        if addr.page_offset() == 0 { Some(addr.page()) } else { None }
    }

    /// The address of the page's first byte.
    pub const fn addr(self) -> Addr<S> {
        Addr::new(self.0.0 << PAGE_SHIFT)
    }

    /// The page's frame number.
    pub const fn frame(self) -> Frame<S> {
        Frame::new(self.0.0)
    }

    /// The numeric address, for hardware registers and table entries.
    pub const fn as_u64(self) -> u64 {
        self.addr().as_u64()
    }
}

impl<S: Space> Frame<S> {
    /// Frame number `number`; at most 52 bits name an address below 2^64.
    pub const fn new(number: u64) -> Self {
        Self(number & (u64::MAX >> PAGE_SHIFT), PhantomData)
    }

    /// The frame's number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The frame's page.
    pub const fn page(self) -> PageAddr<S> {
        PageAddr(Frame::new(self.0))
    }

    /// The address of the frame's first byte.
    pub const fn addr(self) -> Addr<S> {
        Addr::new(self.0 << PAGE_SHIFT)
    }

    /// The frame `count` further on, or `None` past the last frame below 2^64.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) if sum <= u64::MAX >> PAGE_SHIFT => Some(Self::new(sum)),
            _ => None,
        }
    }

    /// Frames from `base` up to this one, or `None` where `base` lies above.
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The first frame of the page of `size` that holds this frame.
    #[must_use]
    pub const fn align_down(self, size: PageSize) -> Self {
        Self::new(self.0 & !(size.frames() - 1))
    }

    /// Whether the frame is the first of a page of `size`.
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.0 & (size.frames() - 1) == 0
    }
}

impl<S: Space> fmt::Debug for Addr<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", S::ADDR_PREFIX, self.0)
    }
}

impl<S: Space> fmt::Debug for PageAddr<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", S::ADDR_PREFIX, self.as_u64())
    }
}

impl<S: Space> fmt::Debug for Frame<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", S::FRAME_PREFIX, self.0)
    }
}

impl<S: Space> fmt::Display for Addr<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
