//! The remap window: memory that the guest adds, moves and deletes while it runs.

use crate::host::Host;
use crate::machine::{Machine, Window};
use crate::memory::{Memslot, SlotError, SlotId};
use crate::translation::Translation;
use alloc::vec;
use anchorite_abi::hypercall::{
    DIRTY_HARVEST, DIRTY_START, DIRTY_STOP, REFUSED, WINDOW_ADD, WINDOW_DELETE, WINDOW_FRAMES,
    WINDOW_MOVE, WINDOW_READ_ONLY,
};
use anchorite_addr::{Gfn, Gpa};
use anchorite_vcpu::{Gpr, Vcpu};

/// The window's slot; the machine's RAM has lower numbers.
const SLOT: SlotId = SlotId(0x100);

/// A call that cannot be obeyed.
struct Refused;

impl From<SlotError> for Refused {
    fn from(_: SlotError) -> Self {
        Self
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// The answer to a hypercall about the window; `None` for any other number, and where
    /// there is no window.
    #[cold]
    pub(super) fn window_call(&mut self, number: u32) -> Option<u32> {
        let window = self.config.window?;
        let argument = self.vcpu.regs()[Gpr::Rdi];
        let done = match number {
            WINDOW_FRAMES => Ok(window.frames as u32),
            WINDOW_ADD => self.add_window(window, argument),
            WINDOW_DELETE => self.delete_slot(SLOT).map(|()| 0).map_err(Refused::from),
            WINDOW_MOVE => self.move_window(argument),
            WINDOW_READ_ONLY => self.protect_window(argument),
            DIRTY_START => answer(self.translation.start_dirty_log(SLOT)),
            DIRTY_HARVEST => self.harvest(window, Gpa::new(argument)),
            DIRTY_STOP => answer(self.translation.stop_dirty_log(SLOT)),
            _ => return None,
        };
        Some(done.unwrap_or(REFUSED))
    }

    fn add_window(&mut self, window: Window, gpa: u64) -> Result<u32, Refused> {
        let Window { host, frames } = window;
        let slot = Memslot { id: SLOT, first: frame(gpa)?, frames, host, read_only: false };
        self.add_slot(slot)?;
        Ok(0)
    }

    fn move_window(&mut self, gpa: u64) -> Result<u32, Refused> {
        self.move_slot(SLOT, frame(gpa)?)?;
        Ok(0)
    }

    fn protect_window(&mut self, read_only: u64) -> Result<u32, Refused> {
        if read_only > 1 {
            return Err(Refused);
        }
        self.set_slot_read_only(SLOT, read_only == 1)?;
        Ok(0)
    }

    /// Stores the log as a map of bits at `gpa`. A map that would lie in the window itself
    /// is refused: storing it would be a write to log.
    fn harvest(&mut self, window: Window, gpa: Gpa) -> Result<u32, Refused> {
        let first = self.memory.slots().get(SLOT).ok_or(Refused)?.first.number();
        let bytes = window.frames.div_ceil(8);
        let mut map = vec![0u8; bytes as usize];
        let start = gpa.frame().number();
        let end = gpa.checked_add(bytes - 1).ok_or(Refused)?.frame().number();
        let apart = end < first || start >= first + window.frames;
        let writable = apart && gpa.as_u64() % 8 == 0 && self.memory.check(gpa, bytes).is_ok();
        let mut count = 0;
        let logged = writable
            && self.translation.harvest_dirty(SLOT, &mut |gfn: Gfn| {
                let bit = gfn.number().wrapping_sub(first);
                if let Some(byte) = map.get_mut((bit / 8) as usize) {
                    *byte |= 1 << (bit % 8);
                    count += 1;
                }
            });
        let stored = logged && self.memory.write(gpa, &map).is_ok();
        if stored { Ok(count) } else { Err(Refused) }
    }
}

const fn answer(done: bool) -> Result<u32, Refused> {
    if done { Ok(0) } else { Err(Refused) }
}

/// The frame that begins at `gpa`.
fn frame(gpa: u64) -> Result<Gfn, Refused> {
    let gpa = Gpa::new(gpa);
    if gpa.page_offset() == 0 { Ok(gpa.frame()) } else { Err(Refused) }
}
