//! What a shadow page costs in memory, all together: at most 8,300 bytes, of which 8,192 are its table and
//! its links.
//!
//! Seen to fail when the directory reserves sixteen times the room.

#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/machine.rs"]
mod machine;
#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/store.rs"]
mod store;

use anchorite_shadow::policy::Tagged;
use anchorite_shadow::{Config, Mmu};
use machine::Host;
use store::Flat;

/// A table and its links, as the source hands them out.
const FRAME: u64 = 8192;
const MOST: u64 = 8300;

#[test]
fn a_page_with_its_metadata_and_its_place_in_the_directory_fits_in_8300_bytes() {
    for quota in [4096, 16_384, 16_672, 24_576, 57_344, 60_000, 131_584] {
        let host: Host<Flat> = Host::new(quota, 16);
        let config = Config { quota, ..Config::default() };
        let mut mmu: Option<Mmu<Host<Flat>, Tagged>> = None;
        let reserved = allocation_counter::measure(|| {
            mmu = Some(Mmu::new(Tagged, host, config).expect("the configuration is valid"));
        });
        let bookkeeping = u64::try_from(reserved.bytes_current).expect("nothing was freed");
        let page = FRAME + bookkeeping.div_ceil(quota.into());
        println!("quota {quota}: {page} bytes a page");
        assert!(page > FRAME + 64, "the metadata was not counted");
        assert!(page <= MOST, "quota {quota}: {page} bytes");
    }
}
