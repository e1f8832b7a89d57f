//! What a PC's firmware leaves in memory for its kernel: ACPI and MP tables.
//!
//! They lie in the BIOS area, where kernels look for them, and tell of nothing but the
//! devices of [`DeviceSet::L4`].

mod acpi;
mod bytes;
mod mp;

use alloc::vec::Vec;
use anchorite_abi::DeviceSet;
use anchorite_addr::Gpa;

/// Where the local and the I/O APIC lie.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// The tables of a machine with this set of devices, and where they go; none where
/// there is nothing to tell. All lie from 0xf0000 to 0xfffff.
pub fn tables(set: DeviceSet) -> Vec<(Gpa, Vec<u8>)> {
    if set < DeviceSet::L4 {
        return Vec::new();
    }
    let mut tables = acpi::tables();
    tables.extend(mp::tables());
    tables.into_iter().map(|(at, bytes)| (Gpa::new(at.into()), bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_lie_in_the_bios_area_and_do_not_overlap() {
        let mut tables = tables(DeviceSet::L4);
        tables.sort_by_key(|(at, _)| *at);
        let mut free = 0xf_0000;
        for (at, bytes) in tables {
            assert!(at.as_u64() >= free, "{at}");
            free = at.as_u64() + bytes.len() as u64;
        }
        assert!(free <= 0x10_0000);
    }

    #[test]
    fn smaller_machines_have_none() {
        assert!(DeviceSet::ALL[..4].iter().all(|&set| tables(set).is_empty()));
    }
}
