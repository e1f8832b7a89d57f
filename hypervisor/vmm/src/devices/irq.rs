//! Interrupts of a machine without an interrupt controller.
//!
//! [`InterruptController`] is the seam: the run loop asks it which vector to
//! deliver, devices move its lines. [`VectorQueue`] is the least that does the job;
//! an 8259 pair or a local APIC takes its place behind the same trait.

use anchorite_vcpu::Vector;

/// IRQ line of the first serial port.
pub const UART_IRQ: u8 = 4;
/// Vector that IRQ 0 has in a [`VectorQueue`]: IRQ n is delivered at 0x20 + n, as by
/// an 8259 programmed the way that every PC kernel does it. The UART's is 0x24.
pub const FIRST_IRQ_VECTOR: u8 = 0x20;

/// What stands between device lines and a vCPU's interrupt window.
pub trait InterruptController {
    /// Moves input line `irq` (0–15); a line beyond is ignored.
    fn set_line(&mut self, irq: u8, high: bool);
    /// Whether a vector waits. Called before every entry, so it must be cheap.
    fn is_pending(&self) -> bool;
    /// The vector to deliver next, still waiting.
    fn pending(&self) -> Option<Vector>;
    /// Takes that vector for delivery.
    fn acknowledge(&mut self) -> Option<Vector>;
}

/// Pending vectors as a bit each; the highest goes first.
///
/// Lines are edge-triggered without a mask and without an end-of-interrupt: a
/// rising edge makes the line's vector pending, a falling one withdraws it if it
/// has not been delivered. What keeps a handler from being interrupted is its own
/// RFLAGS.IF alone.
#[derive(Clone, Debug, Default)]
pub struct VectorQueue {
    /// Bit v % 64 of word v / 64: vector v waits.
    words: [u64; 4],
    /// Bit w: word w is not zero.
    summary: u8,
    /// Bit n: line n is high.
    lines: u16,
}

impl VectorQueue {
    /// Makes `vector` pending; one that waits already is not counted twice.
    pub fn raise(&mut self, vector: Vector) {
        let (word, bit) = position(vector);
        self.words[word] |= bit;
        self.summary |= 1 << word;
    }

    /// Withdraws `vector` if it waits.
    pub fn withdraw(&mut self, vector: Vector) {
        let (word, bit) = position(vector);
        self.words[word] &= !bit;
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    /// How many vectors wait, at most 256.
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.summary == 0
    }
}

impl InterruptController for VectorQueue {
    fn set_line(&mut self, irq: u8, high: bool) {
        let Some(bit) = 1u16.checked_shl(irq.into()) else { return };
        if (self.lines & bit != 0) == high {
            return;
        }

        self.lines ^= bit;
        let vector = Vector(FIRST_IRQ_VECTOR + irq);
        if high { self.raise(vector) } else { self.withdraw(vector) }
    }

    fn is_pending(&self) -> bool {
        !self.is_empty()
    }

    fn pending(&self) -> Option<Vector> {
        let word = self.summary.checked_ilog2()?;
        let bit = self.words[word as usize].checked_ilog2()?;
        Some(Vector((word * 64 + bit) as u8))
    }

    fn acknowledge(&mut self) -> Option<Vector> {
        let vector = self.pending()?;
        self.withdraw(vector);
        Some(vector)
    }
}

const fn position(vector: Vector) -> (usize, u64) {
    ((vector.0 >> 6) as usize, 1 << (vector.0 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_is_delivered_first_and_each_once() {
        let mut queue = VectorQueue::default();
        for vector in [0x20, 0xff, 0x80, 0x80, 0] {
            queue.raise(Vector(vector));
        }
        assert_eq!(queue.len(), 4);
        let order = [0xff, 0x80, 0x20, 0].map(|vector| Some(Vector(vector)));
        assert_eq!(order, [(); 4].map(|()| queue.acknowledge()));
        assert!(queue.is_empty() && queue.acknowledge().is_none());
    }

    #[test]
    fn a_line_held_high_interrupts_once_until_it_falls_and_rises() {
        let mut queue = VectorQueue::default();
        queue.set_line(UART_IRQ, true);
        assert_eq!(queue.acknowledge(), Some(Vector(0x24)));
        queue.set_line(UART_IRQ, true);
        assert!(!queue.is_pending());
        queue.set_line(UART_IRQ, false);
        queue.set_line(UART_IRQ, true);
        assert_eq!(queue.pending(), Some(Vector(0x24)));
    }

    #[test]
    fn a_line_that_falls_before_delivery_takes_its_vector_back() {
        let mut queue = VectorQueue::default();
        queue.set_line(UART_IRQ, true);
        queue.set_line(UART_IRQ, false);
        assert!(!queue.is_pending());
    }

    #[test]
    fn lines_beyond_fifteen_do_nothing() {
        let mut queue = VectorQueue::default();
        for irq in 16..=u8::MAX {
            queue.set_line(irq, true);
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn every_vector_can_be_raised_and_withdrawn() {
        for vector in (0..=u8::MAX).map(Vector) {
            let mut queue = VectorQueue::default();
            queue.raise(vector);
            assert_eq!(queue.pending(), Some(vector));
            queue.withdraw(vector);
            assert!(queue.is_empty());
        }
    }
}
