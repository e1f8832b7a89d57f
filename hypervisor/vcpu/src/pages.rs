//! Memory for control structures.

use anchorite_addr::HpaPage;

/// One 4 KiB page of host memory.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

/// Contiguous pages for a structure that the hardware shares.
///
/// They are never taken back: control structures live as long as the machine.
#[derive(Debug)]
pub struct HostPages {
    /// Physical address of the first page; the others follow it.
    pub physical: HpaPage,
    /// The same memory. A backend turns it into raw or volatile pointers before it
    /// tells the hardware of it.
    pub memory: &'static mut [Page],
}

/// Hands out pages for control structures.
///
/// An implementation that gave a `physical` which is not the address of `memory`
/// would let the hardware write elsewhere; only `platform` implements this, on the
/// direct map.
pub trait PageSource {
    /// `count` contiguous pages with whatever they hold, for one who fills them; or `None`
    /// where memory is exhausted.
    fn pages_as_they_are(&mut self, count: usize) -> Option<HostPages>;

    /// The same, zeroed.
    fn pages(&mut self, count: usize) -> Option<HostPages> {
        let pages = self.pages_as_they_are(count)?;
        for page in &mut *pages.memory {
            page.0.fill(0);
        }
        Some(pages)
    }
}
