//! The memory map and raw access to physical memory, which is mapped one to one.
#![expect(unsafe_code, reason = "reads and writes physical memory by address")]

/// Physical addresses below this are mapped.
pub const MAPPED_END: u64 = 1 << 32;

/// A range of the memory map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
    /// Type as in an E820 map: 1 is RAM.
    pub kind: u32,
}

impl Region {
    /// The type of RAM.
    pub const RAM: u32 = 1;
}

/// The boot loader's memory map; entries beyond the capacity are dropped.
#[derive(Debug, Default)]
pub struct MemoryMap {
    regions: [Region; Self::CAPACITY],
    count: usize,
}

impl MemoryMap {
    /// Entries kept.
    pub const CAPACITY: usize = 32;

    pub(crate) fn push(&mut self, region: Region) {
        if let Some(slot) = self.regions.get_mut(self.count) {
            *slot = region;
            self.count += 1;
        }
    }

    /// The entries in the boot loader's order.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    /// The entries that are RAM.
    pub fn ram(&self) -> impl Iterator<Item = &Region> {
        self.regions().iter().filter(|region| region.kind == Region::RAM)
    }
}

/// A value that physical memory can hold and any bit pattern of which is valid.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

/// Reads physical memory with one load of the value's width.
///
/// # Panics
/// Where the address is not mapped.
pub fn read<T: Plain>(address: u64) -> T {
    check::<T>(address);
    // SAFETY: the address is mapped (checked), `T` has no invalid bit pattern; the
    // access may be unaligned, which x86 allows and one MOV does.
    unsafe { core::ptr::read_volatile(address as *const Unaligned<T>).0 }
}

/// Writes physical memory with one store of the value's width.
///
/// The caller owns the meaning of that memory: RAM outside the guest's image, or a
/// device.
///
/// # Panics
/// Where the address is not mapped or lies within the guest's image.
pub fn write<T: Plain>(address: u64, value: T) {
    check::<T>(address);
    let (start, end) = crate::boot::image();
    assert!(!(start..end).contains(&address), "write into the guest's own image at {address:#x}");
    // SAFETY: the address is mapped and is not the image's (both checked), so no Rust
    // object changes under anyone.
    unsafe { core::ptr::write_volatile(address as *mut Unaligned<T>, Unaligned(value)) }
}

/// The `bytes` bytes at `address` as the boot loader left them.
pub(crate) fn bytes(address: u64, bytes: u64) -> Option<&'static [u8]> {
    let end = address.checked_add(bytes)?;
    let length = usize::try_from(bytes).ok()?;
    if address == 0 || end > MAPPED_END {
        return None;
    }
    // SAFETY: mapped, not null, below 4 GiB; the guest never writes where the boot
    // loader put its information.
    Some(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
}

/// The zero-terminated text at `address`, empty where it is not UTF-8 or longer than 4 KiB.
pub(crate) fn text(address: u64) -> &'static str {
    let terminated = bytes(address, 4096).and_then(|all| all.split(|&byte| byte == 0).next());
    terminated.and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("")
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

fn check<T>(address: u64) {
    let mapped = address != 0 && address <= MAPPED_END - size_of::<T>() as u64;
    assert!(mapped, "physical address {address:#x} is not mapped");
}
