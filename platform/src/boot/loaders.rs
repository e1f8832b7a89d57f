//! Reads the information structures of multiboot 1 and 2.

#![expect(unsafe_code, reason = "a boot loader hands over raw addresses")]

use super::information::{BootInformation, RSDP_BYTES};
use multiboot::information::{MemoryManagement, MemoryType, Multiboot, PAddr, SIGNATURE_EAX};
use multiboot2::MemoryAreaType;

/// Why the information cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoaderError {
    /// EAX held neither protocol's magic number.
    UnknownMagic(u32),
    /// The structure at EBX is malformed.
    Malformed,
}

/// Reads the structure at `address` as `magic` says.
///
/// # Safety
/// `magic` and `address` are what a boot loader left in EAX and EBX, the first
/// 4 GiB are mapped 1:1, and nothing has been overwritten since.
pub(super) unsafe fn read(
    magic: u32,
    address: u32,
    information: &mut BootInformation,
) -> Result<(), LoaderError> {
    // SAFETY: passed on from the caller.
    unsafe {
        match magic {
            SIGNATURE_EAX => read_multiboot1(address, information),
            multiboot2::MAGIC => read_multiboot2(address, information),
            unknown => Err(LoaderError::UnknownMagic(unknown)),
        }
    }
}

/// Memory that is mapped 1:1, for the multiboot crate.
struct IdentityMapped;

impl MemoryManagement for IdentityMapped {
    unsafe fn paddr_to_slice(&self, address: PAddr, bytes: usize) -> Option<&'static [u8]> {
        let pointer = core::ptr::with_exposed_provenance(address as usize);
        // SAFETY: the crate asks for structures that the loader described, and the
        // first 4 GiB are mapped 1:1.
        (address != 0).then(|| unsafe { core::slice::from_raw_parts(pointer, bytes) })
    }

    unsafe fn allocate(&mut self, _bytes: usize) -> Option<(PAddr, &mut [u8])> {
        None
    }

    unsafe fn deallocate(&mut self, _address: PAddr) {}
}

unsafe fn read_multiboot1(
    address: u32,
    information: &mut BootInformation,
) -> Result<(), LoaderError> {
    let mut memory = IdentityMapped;
    // SAFETY: the caller vouches for the address.
    let loader = unsafe { Multiboot::from_ptr(address.into(), &mut memory) };
    let loader = loader.ok_or(LoaderError::Malformed)?;
    for region in loader.memory_regions().ok_or(LoaderError::Malformed)? {
        if region.memory_type() == MemoryType::Available {
            let start = region.base_address();
            information.add_ram(start..start.saturating_add(region.length()));
        }
    }
    if let Some(text) = loader.command_line() {
        information.set_command_line(text.as_bytes());
    }
    for module in loader.modules().into_iter().flatten() {
        let string = module.string.unwrap_or_default();
        information.add_module(module.start..module.end, string.as_bytes());
    }
    Ok(())
}

unsafe fn read_multiboot2(
    address: u32,
    information: &mut BootInformation,
) -> Result<(), LoaderError> {
    let pointer = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the caller vouches for the address.
    let loader = unsafe { multiboot2::BootInformation::load(pointer) };
    let loader = loader.map_err(|_| LoaderError::Malformed)?;
    let map = loader.memory_map_tag().ok_or(LoaderError::Malformed)?;
    for area in map.memory_areas() {
        if area.typ() == MemoryAreaType::Available {
            information.add_ram(area.start_address()..area.end_address());
        }
    }
    if let Some(Ok(text)) = loader.command_line_tag().map(multiboot2::CommandLineTag::cmdline) {
        information.set_command_line(text.as_bytes());
    }
    for module in loader.module_tags() {
        let string = module.cmdline().unwrap_or_default();
        information.add_module(
            module.start_address().into()..module.end_address().into(),
            string.as_bytes(),
        );
    }
    information.rsdp = root_pointer(&loader);
    Ok(())
}

/// The ACPI root pointer as the tag holds it: signature up to the extended checksum.
fn root_pointer(loader: &multiboot2::BootInformation<'_>) -> Option<[u8; RSDP_BYTES]> {
    /// Both tags have the pointer behind their type and size.
    const TAG_HEADER: usize = 8;
    const RSDP_V1_BYTES: usize = 20;
    let (tag, length) = match (loader.rsdp_v2_tag(), loader.rsdp_v1_tag()) {
        (Some(tag), _) => (core::ptr::from_ref(tag).cast::<u8>(), RSDP_BYTES),
        (None, Some(tag)) => (core::ptr::from_ref(tag).cast::<u8>(), RSDP_V1_BYTES),
        (None, None) => return None,
    };
    let mut copy = [0; RSDP_BYTES];
    // SAFETY: the crate has checked that the tag lies within the structure, and the
    // tag's type fixes its length.
    let bytes = unsafe { core::slice::from_raw_parts(tag.add(TAG_HEADER), length) };
    copy[..length].copy_from_slice(bytes);
    Some(copy)
}
