//! The address spaces, as types that are never values.

/// An address space; its prefixes name it in debug output.
pub trait Space: Copy + Ord + core::hash::Hash {
    /// Stands before an address.
    const ADDR_PREFIX: &'static str;
    /// Stands before a frame number.
    const FRAME_PREFIX: &'static str;
}

/// Linear addresses, as the guest's instructions form them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestVirt {}

/// What the guest believes to be physical memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestPhys {}

/// The machine's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPhys {}

impl Space for GuestVirt {
    const ADDR_PREFIX: &'static str = "gva";
    const FRAME_PREFIX: &'static str = "gvn";
}

impl Space for GuestPhys {
    const ADDR_PREFIX: &'static str = "gpa";
    const FRAME_PREFIX: &'static str = "gfn";
}

impl Space for HostPhys {
    const ADDR_PREFIX: &'static str = "hpa";
    const FRAME_PREFIX: &'static str = "hfn";
}
