//! What a PC's firmware leaves in memory for its kernel: interrupt vectors, data areas,
//! ACPI and MP tables.
//!
//! The tables lie in the BIOS area, where kernels look for them, and tell of nothing but the
//! devices of [`DeviceSet::L4`].

mod acpi;
mod bytes;
mod data_area;
mod mp;
mod services;

use alloc::vec::Vec;
use anchorite_abi::DeviceSet;
use anchorite_addr::Gpa;

/// Where the local and the I/O APIC lie.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// Where conventional memory ends: behind it lies the extended BIOS data area, then video memory.
pub const CONVENTIONAL_END: u32 = 0x9_fc00;

/// What a machine with this set of devices has in memory, and where: vectors and data areas
/// below 0xa0000, and from 0xf0000 to 0xfffff the tables, where there is something to tell,
/// and the vectors' handlers.
pub fn tables(set: DeviceSet) -> Vec<(Gpa, Vec<u8>)> {
    let mut tables = services::table_and_handlers();
    tables.extend(data_area::areas());
    if set >= DeviceSet::L4 {
        tables.extend(acpi::tables());
        tables.extend(mp::tables());
    }
    tables.into_iter().map(|(at, bytes)| (Gpa::new(at.into()), bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_lie_in_the_bios_area_and_do_not_overlap() {
        let mut tables = tables(DeviceSet::L4);
        tables.sort_by_key(|(at, _)| *at);
        let mut free = 0;
        for (at, bytes) in tables {
            assert!(at.as_u64() >= free, "{at}");
            free = at.as_u64() + bytes.len() as u64;
            assert!(
                free <= 0x500 || (0x9_fc00..0xa_0000).contains(&free) || at.as_u64() >= 0xf_0000
            );
        }
        assert!(free <= 0x10_0000);
    }

    #[test]
    fn smaller_machines_have_vectors_and_data_areas_only() {
        let places = |set| tables(set).into_iter().map(|(at, _)| at.as_u64());
        assert!(
            DeviceSet::ALL[..4].iter().all(|&set| places(set).eq([0, 0xf_f000, 0x400, 0x9_fc00]))
        );
    }
}
