//! A memory slot that moves, as a device's BAR or a ROM's shadow does: the remap window of the
//! hypercalls, mapped at both places between which it goes.

use anchorite_guests::abi::hypercall::{WINDOW_ADD, WINDOW_DELETE};
use anchorite_guests::machine::hypercall;

use crate::space::{self, PAGE, Space, TABLE_SPAN};

/// Guest-physical addresses of the window, in turn.
const PLACES: [u64; 2] = [0xd000_0000, 0xd080_0000];
/// Virtual address of the first place: the third entry of the PML4. The second place is one
/// page table further on.
const SHOWN: u64 = 0x100_0000_0000;
/// Pages of the window that are mapped and read.
const PAGES: u64 = 16;

/// The window, and where it is.
#[derive(Debug)]
pub(crate) struct Aperture {
    place: usize,
}

impl Aperture {
    /// Adds the window to the machine and maps both places of it in `space`, with tables from
    /// `frames`: a PDPT, a page directory, and a page table for each place.
    pub(crate) fn new(space: Space, mut frames: impl FnMut() -> u64) -> Self {
        let directory = space.directory(SHOWN, &mut frames);
        for (number, place) in PLACES.into_iter().enumerate() {
            let table = frames();
            space::enter(directory, number as u64, table);
            (0..PAGES).for_each(|page| space::map_at(table, page, place + page * PAGE));
        }
        assert_eq!(hypercall(WINDOW_ADD, PLACES[0], 0), 0, "the window has no place");
        Self { place: 0 }
    }

    /// Gives each page its word. They stay through all moves.
    pub(crate) fn fill(&self) {
        for (page, address) in self.addresses().enumerate() {
            space::write(address, !(page as u64));
        }
    }

    /// Deletes the slot and adds it at the other place, as a machine monitor does that
    /// remaps a BAR.
    pub(crate) fn go(&mut self) {
        assert_eq!(hypercall(WINDOW_DELETE, 0, 0), 0, "the window stays");
        self.place = 1 - self.place;
        assert_eq!(hypercall(WINDOW_ADD, PLACES[self.place], 0), 0, "the window has no place");
    }

    /// Virtual addresses of its pages where it is now.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        let first = SHOWN + self.place as u64 * TABLE_SPAN;
        (0..PAGES).map(move |page| first + page * PAGE)
    }
}
