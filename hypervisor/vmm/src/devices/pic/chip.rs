//! One 8259A.

use anchorite_vcpu::Vector;

/// The line whose vector answers when the request has gone away.
const SPURIOUS: u8 = 7;
/// A poll's answer bit 7: a line requests service.
const POLL_REQUEST: u8 = 1 << 7;

/// Which word the next write with A0 = 1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// OCW1: the chip is initialized.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// What a read with A0 = 0 gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Requests,
    InService,
}

/// The registers; a bit a line, bit 0 for line 0.
#[derive(Clone, Debug)]
pub(super) struct Chip {
    requests: u8,
    in_service: u8,
    mask: u8,
    lines: u8,
    level_lines: u8,
    /// ICW1's LTIM: all lines are level-triggered.
    all_level: bool,
    /// ICW1's SNGL: no ICW3 follows.
    single: bool,
    /// ICW1's IC4.
    wants_icw4: bool,
    base: u8,
    next: Next,
    reads: Reads,
    /// The next read is a poll.
    polled: bool,
    /// The line of the lowest priority; the one behind it has the highest.
    lowest: u8,
    automatic_eoi: bool,
    rotates: bool,
    special_mask: bool,
    fully_nested: bool,
}

impl Chip {
    /// A chip whose vectors begin at `base` and whose lines are all masked.
    pub(super) const fn new(base: u8) -> Self {
        Self {
            requests: 0,
            in_service: 0,
            mask: 0xff,
            lines: 0,
            level_lines: 0,
            all_level: false,
            single: false,
            wants_icw4: false,
            base,
            next: Next::Mask,
            reads: Reads::Requests,
            polled: false,
            lowest: 7,
            automatic_eoi: false,
            rotates: false,
            special_mask: false,
            fully_nested: false,
        }
    }

    /// Moves an input. An edge's request goes when the line falls before the
    /// processor has asked; a level's holds as long as the line does.
    pub(super) const fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << (line & 7);
        let rises = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
            self.requests &= !bit;
        }
        if rises || high && self.is_level(bit) {
            self.requests |= bit;
        }
    }

    /// The line to serve: the first by priority of those that request and are not
    /// masked, unless one of the same or a higher priority is in service.
    pub(super) const fn request(&self) -> Option<u8> {
        let wanted = self.requests & !self.mask;
        if wanted == 0 {
            return None;
        }
        let mut serving = self.in_service;
        if self.special_mask {
            serving &= !self.mask;
        }
        let wanted = self.by_priority(wanted).trailing_zeros();
        let serving = self.by_priority(serving).trailing_zeros();
        // In special fully nested mode the same input may request once more: a second
        // controller behind it has priorities of its own.
        if wanted < serving || wanted == serving && self.fully_nested {
            Some(self.line_at(wanted))
        } else {
            None
        }
    }

    /// INTA: the line served, [`SPURIOUS`] where none requests any more.
    pub(super) const fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.request() else { return SPURIOUS };
        let bit = 1 << line;
        if !self.is_level(bit) {
            self.requests &= !bit;
        }
        if !self.automatic_eoi {
            self.in_service |= bit;
        } else if self.rotates {
            self.lowest = line;
        }
        line
    }

    pub(super) const fn vector(&self, line: u8) -> Vector {
        Vector(self.base | line & 7)
    }

    pub(super) const fn level_lines(&self) -> u8 {
        self.level_lines
    }

    pub(super) const fn set_level_lines(&mut self, lines: u8) {
        self.level_lines = lines;
        self.requests |= self.lines & lines;
    }

    pub(super) const fn read(&mut self, a0: bool) -> u8 {
        if self.polled {
            return self.poll();
        }
        match (self.reads, a0) {
            (_, true) => self.mask,
            (Reads::Requests, false) => self.requests,
            (Reads::InService, false) => self.in_service,
        }
    }

    pub(super) const fn write(&mut self, a0: bool, value: u8) {
        match (a0, value >> 3 & 3) {
            (true, _) => self.write_data(value),
            (false, 0) => self.operate(value),
            (false, 1) => self.select(value),
            (false, _) => self.initialize(value),
        }
    }

    /// A read after a poll command takes the place of INTA.
    const fn poll(&mut self) -> u8 {
        self.polled = false;
        match self.request() {
            Some(_) => POLL_REQUEST | self.acknowledge(),
            None => 0,
        }
    }

    /// ICW1. A line that is high already needs a new edge.
    const fn initialize(&mut self, value: u8) {
        let Self { lines, level_lines, base, .. } = *self;
        *self = Self::new(base);
        self.lines = lines;
        self.level_lines = level_lines;
        self.mask = 0;
        self.all_level = value & 1 << 3 != 0;
        self.single = value & 1 << 1 != 0;
        self.wants_icw4 = value & 1 << 0 != 0;
        self.next = Next::Icw2;
        self.requests = if self.all_level { lines } else { lines & level_lines };
    }

    const fn write_data(&mut self, value: u8) {
        self.next = match self.next {
            Next::Mask => {
                self.mask = value;
                Next::Mask
            }
            Next::Icw2 => {
                self.base = value & 0xf8;
                if self.single { self.after_icw3() } else { Next::Icw3 }
            }
            // How the two are wired is known.
            Next::Icw3 => self.after_icw3(),
            Next::Icw4 => {
                self.automatic_eoi = value & 1 << 1 != 0;
                self.fully_nested = value & 1 << 4 != 0;
                Next::Mask
            }
        };
    }

    const fn after_icw3(&self) -> Next {
        if self.wants_icw4 { Next::Icw4 } else { Next::Mask }
    }

    /// OCW2: bits 7 to 5 are R, SL and EOI, bits 2 to 0 a line.
    const fn operate(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0 => self.rotates = false,
            1 => {
                self.end_highest();
            }
            3 => self.in_service &= !(1 << line),
            4 => self.rotates = true,
            5 => {
                if let Some(line) = self.end_highest() {
                    self.lowest = line;
                }
            }
            6 => self.lowest = line,
            7 => {
                self.in_service &= !(1 << line);
                self.lowest = line;
            }
            _ => {}
        }
    }

    /// OCW3: poll, what to read, special mask mode.
    const fn select(&mut self, value: u8) {
        if value & 1 << 6 != 0 {
            self.special_mask = value & 1 << 5 != 0;
        }
        if value & 1 << 2 != 0 {
            self.polled = true;
        } else if value & 1 << 1 != 0 {
            self.reads = if value & 1 != 0 { Reads::InService } else { Reads::Requests };
        }
    }

    /// A non-specific end of interrupt. In special mask mode it does not see what the
    /// mask hides.
    const fn end_highest(&mut self) -> Option<u8> {
        let serving =
            if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        if serving == 0 {
            return None;
        }
        let line = self.line_at(self.by_priority(serving).trailing_zeros());
        self.in_service &= !(1 << line);
        Some(line)
    }

    const fn is_level(&self, bit: u8) -> bool {
        self.all_level || self.level_lines & bit != 0
    }

    /// Lines turned so that bit 0 has the highest priority.
    const fn by_priority(&self, lines: u8) -> u8 {
        lines.rotate_right(self.lowest as u32 + 1)
    }

    const fn line_at(&self, priority: u32) -> u8 {
        (self.lowest + 1 + priority as u8) & 7
    }
}
