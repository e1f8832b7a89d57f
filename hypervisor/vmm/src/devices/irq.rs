//! What stands between the devices' interrupt lines and a vCPU.
//!
//! [`Interrupts`] is what the run loop asks before every entry: one flag that says
//! whether a vector waits, kept up to date by whoever changes something. Vectors come
//! from two places: a [`VectorQueue`] in front of the vCPU, which guests fill through a
//! test port and which keeps interrupts that were taken but not delivered, and the
//! interrupt controllers that the devices' lines end in.

use super::pic::Pic;
use anchorite_vcpu::Vector;

/// The lines of a PC, by their IRQ.
pub mod line {
    /// Timer channel 0.
    pub const TIMER: u8 = 0;
    /// Keyboard.
    pub const KEYBOARD: u8 = 1;
    /// First serial line.
    pub const UART: u8 = 4;
    /// Real-time clock.
    pub const CLOCK: u8 = 8;
    /// Mouse.
    pub const MOUSE: u8 = 12;
}

/// Lines, controllers and the queue in front of the vCPU.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    queue: VectorQueue,
    pic: Pic,
    /// Bit n: line n is high.
    lines: u16,
    /// A vector waits.
    pending: bool,
}

impl Interrupts {
    /// Makes `vector` pending past all controllers; one that waits already is not
    /// counted twice.
    pub fn raise(&mut self, vector: Vector) {
        self.queue.raise(vector);
        self.pending = true;
    }

    /// Moves input line `irq` (0–15); a line beyond does not exist.
    #[inline]
    pub fn set_line(&mut self, irq: u8, high: bool) {
        let bit = 1_u16.checked_shl(irq.into()).unwrap_or(0);
        if (self.lines & bit != 0) != high {
            self.move_line(irq, bit);
        }
    }

    /// Whether a vector waits.
    #[inline]
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Takes the vector to deliver next: the queue's highest, else the controllers'.
    pub fn acknowledge(&mut self) -> Option<Vector> {
        let vector = match self.queue.take() {
            Some(vector) => Some(vector),
            None => self.pic.is_pending().then(|| self.pic.acknowledge()),
        };
        self.update();
        vector
    }

    /// How many vectors wait in the queue, at most 256.
    pub fn queued(&self) -> u32 {
        self.queue.len()
    }

    /// Reads a port of the 8259 pair.
    pub fn read_pic(&mut self, port: u16) -> u8 {
        let value = self.pic.read(port);
        self.update();
        value
    }

    /// Writes a port of the 8259 pair.
    pub fn write_pic(&mut self, port: u16, value: u8) {
        self.pic.write(port, value);
        self.update();
    }

    /// Reads a trigger register of the 8259 pair.
    pub const fn read_trigger(&self, port: u16) -> u8 {
        self.pic.read_trigger(port)
    }

    /// Writes a trigger register of the 8259 pair.
    pub fn write_trigger(&mut self, port: u16, value: u8) {
        self.pic.write_trigger(port, value);
        self.update();
    }

    fn move_line(&mut self, irq: u8, bit: u16) {
        self.lines ^= bit;
        self.pic.set_line(irq, self.lines & bit != 0);
        self.update();
    }

    fn update(&mut self) {
        self.pending = !self.queue.is_empty() || self.pic.is_pending();
    }
}

/// Pending vectors as a bit each; the highest goes first.
///
/// There is neither a mask nor an end-of-interrupt: what keeps a handler from being
/// interrupted is its own RFLAGS.IF alone.
#[derive(Clone, Debug, Default)]
struct VectorQueue {
    /// Bit v % 64 of word v / 64: vector v waits.
    words: [u64; 4],
    /// Bit w: word w is not zero.
    summary: u8,
}

impl VectorQueue {
    fn raise(&mut self, vector: Vector) {
        let (word, bit) = position(vector);
        self.words[word] |= bit;
        self.summary |= 1 << word;
    }

    fn take(&mut self) -> Option<Vector> {
        let word = self.summary.checked_ilog2()?;
        let bits = &mut self.words[word as usize];
        let bit = bits.checked_ilog2()?;
        *bits ^= 1 << bit;
        if *bits == 0 {
            self.summary ^= 1 << word;
        }
        Some(Vector((word * 64 + bit) as u8))
    }

    fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    const fn is_empty(&self) -> bool {
        self.summary == 0
    }
}

const fn position(vector: Vector) -> (usize, u64) {
    ((vector.0 >> 6) as usize, 1 << (vector.0 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IRQ n at vector 0x20 + n, nothing masked.
    fn programmed() -> Interrupts {
        let mut interrupts = Interrupts::default();
        for (port, value) in [(0x20, 0x13), (0x21, 0x20), (0x21, 0x01)] {
            interrupts.write_pic(port, value);
        }
        interrupts
    }

    #[test]
    fn the_highest_vector_is_delivered_first_and_each_once() {
        let mut interrupts = Interrupts::default();
        for vector in [0x20, 0xff, 0x80, 0x80, 0] {
            interrupts.raise(Vector(vector));
        }
        assert_eq!(interrupts.queued(), 4);
        let order = [0xff, 0x80, 0x20, 0].map(|vector| Some(Vector(vector)));
        assert_eq!(order, [(); 4].map(|()| interrupts.acknowledge()));
        assert!(!interrupts.is_pending() && interrupts.acknowledge().is_none());
    }

    #[test]
    fn a_line_interrupts_through_the_controller_only_once_it_is_programmed() {
        let mut interrupts = Interrupts::default();
        interrupts.set_line(line::UART, true);
        assert!(!interrupts.is_pending());
        let mut interrupts = programmed();
        interrupts.set_line(line::UART, true);
        assert!(interrupts.is_pending());
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x24)));
        assert!(!interrupts.is_pending());
    }

    #[test]
    fn what_waits_in_the_queue_goes_before_the_lines() {
        let mut interrupts = programmed();
        interrupts.set_line(line::TIMER, true);
        interrupts.raise(Vector(3));
        assert_eq!(interrupts.acknowledge(), Some(Vector(3)));
        assert!(interrupts.is_pending());
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x20)));
    }

    #[test]
    fn lines_beyond_fifteen_do_nothing() {
        let mut interrupts = programmed();
        for irq in 16..=u8::MAX {
            interrupts.set_line(irq, true);
        }
        assert!(!interrupts.is_pending());
    }

    #[test]
    fn every_vector_can_be_raised() {
        let mut interrupts = Interrupts::default();
        for vector in (0..=u8::MAX).map(Vector) {
            interrupts.raise(vector);
            assert_eq!(interrupts.acknowledge(), Some(vector));
            assert!(!interrupts.is_pending());
        }
    }
}
