//! The keyboard controller (ports 0x60, 0x64) with nothing plugged in.
//!
//! It answers the commands that firmware and kernels use to find out that there is
//! no keyboard, and it has the line that resets the machine. A byte to be read raises
//! IRQ 1, or IRQ 12 where it is the mouse's, if the configuration byte says so.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
//! Device Controller", 1988.

use super::reset::ResetLine;

/// Status bit 0: a byte waits in the output buffer.
const OUTPUT_FULL: u8 = 1 << 0;
/// Status bit 2: the self-test has passed.
const SYSTEM_FLAG: u8 = 1 << 2;
/// Status bit 3: the last write went to the command port.
const COMMAND: u8 = 1 << 3;
/// Status bit 4: the keyboard is not locked.
const NOT_LOCKED: u8 = 1 << 4;
/// Status bit 5: that byte is the mouse's.
const OF_MOUSE: u8 = 1 << 5;
/// Status bit 6: a device did not answer in time.
const TIMEOUT: u8 = 1 << 6;
/// What the controller puts into the output buffer when a device does not answer.
const NO_ANSWER: u8 = 0xfe;
/// Output port bit 0: the processor's reset line, active low.
const RESET_LINE: u8 = 1 << 0;
/// Output port bit 1: address line 20 is let through.
const A20: u8 = 1 << 1;
/// Configuration bits 4 and 5: clocks of keyboard and mouse are off.
const CLOCKS_OFF: u8 = 3 << 4;
/// Configuration bits 0 and 1: interrupts of keyboard and mouse.
const KEYBOARD_INTERRUPT: u8 = 1 << 0;
const MOUSE_INTERRUPT: u8 = 1 << 1;

/// Which register the next data byte goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Keyboard,
    Configuration,
    OutputPort,
    /// The output buffer, as if the keyboard had sent it.
    OutputBuffer,
    /// The same for the mouse.
    MouseBuffer,
    Mouse,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct I8042 {
    /// The byte to read and the status bits that came with it.
    output: Option<u8>,
    flags: u8,
    configuration: u8,
    output_port: u8,
    target: Target,
}

impl Default for I8042 {
    fn default() -> Self {
        Self {
            output: None,
            flags: NOT_LOCKED,
            configuration: CLOCKS_OFF,
            output_port: RESET_LINE | A20,
            target: Target::Keyboard,
        }
    }
}

impl I8042 {
    /// Port 0x64: the status register. The input buffer is always empty.
    pub const fn status(&self) -> u8 {
        if self.output.is_some() { self.flags | OUTPUT_FULL } else { self.flags }
    }

    /// The levels of IRQ 1 and IRQ 12.
    pub const fn interrupts(&self) -> (bool, bool) {
        let waits = self.output.is_some();
        let mouse = self.flags & OF_MOUSE != 0;
        (
            waits && !mouse && self.configuration & KEYBOARD_INTERRUPT != 0,
            waits && mouse && self.configuration & MOUSE_INTERRUPT != 0,
        )
    }

    /// Port 0x60: takes the byte in the output buffer; 0 where there is none.
    pub const fn read_data(&mut self) -> u8 {
        self.flags &= !(TIMEOUT | OF_MOUSE);
        match self.output.take() {
            Some(byte) => byte,
            None => 0,
        }
    }

    /// Port 0x60: a byte for what the last command named, else for the keyboard.
    pub const fn write_data(&mut self, value: u8) -> ResetLine {
        self.flags &= !COMMAND;
        let target = self.target;
        self.target = Target::Keyboard;

        match target {
            Target::Configuration => self.configuration = value & 0x7f,
            Target::OutputPort => return self.set_output_port(value),
            Target::OutputBuffer => self.answer(value),
            Target::Keyboard => self.no_answer(),
            Target::MouseBuffer | Target::Mouse => {
                if matches!(target, Target::Mouse) {
                    self.no_answer();
                } else {
                    self.answer(value);
                }
                self.flags |= OF_MOUSE;
            }
        }
        ResetLine::Idle
    }

    /// Port 0x64: a command; unknown ones do nothing.
    pub const fn write_command(&mut self, command: u8) -> ResetLine {
        self.flags |= COMMAND;
        self.target = Target::Keyboard;

        match command {
            0x20 => self.answer(self.configuration),
            0x60 => self.target = Target::Configuration,
            0xa7 => self.configuration |= 1 << 5,
            0xa8 => self.configuration &= !(1 << 5),
            0xaa => self.self_test(),
            // Interface tests of mouse and keyboard: no line is stuck.
            0xa9 | 0xab => self.answer(0),
            0xad => self.configuration |= 1 << 4,
            0xae => self.configuration &= !(1 << 4),
            0xd0 => self.answer(self.output_port),
            0xd1 => self.target = Target::OutputPort,
            0xd2 => self.target = Target::OutputBuffer,
            0xd3 => self.target = Target::MouseBuffer,
            0xd4 => self.target = Target::Mouse,
            // Commands 0xf0–0xff pulse the output port's low lines whose bit is 0.
            0xf0..=0xff if command & RESET_LINE == 0 => return ResetLine::Pulled,
            _ => {}
        }
        ResetLine::Idle
    }

    const fn self_test(&mut self) {
        self.answer(0x55);
        self.flags |= SYSTEM_FLAG;
    }

    const fn answer(&mut self, byte: u8) {
        self.output = Some(byte);
        self.flags &= !(OF_MOUSE | TIMEOUT);
    }

    const fn no_answer(&mut self) {
        self.answer(NO_ANSWER);
        self.flags |= TIMEOUT;
    }

    /// A20 is remembered only: the machine has no address wrap at 1 MiB.
    const fn set_output_port(&mut self, value: u8) -> ResetLine {
        self.output_port = value;
        if value & RESET_LINE == 0 { ResetLine::Pulled } else { ResetLine::Idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_self_test_passes_and_sets_the_system_flag() {
        let mut controller = I8042::default();
        assert_eq!(controller.status(), NOT_LOCKED);
        assert_eq!(controller.write_command(0xaa), ResetLine::Idle);
        assert_eq!(controller.status() & (OUTPUT_FULL | SYSTEM_FLAG), OUTPUT_FULL | SYSTEM_FLAG);
        assert_eq!(controller.read_data(), 0x55);
        assert_eq!(controller.status() & OUTPUT_FULL, 0);
    }

    #[test]
    fn bytes_for_the_absent_keyboard_time_out() {
        let mut controller = I8042::default();
        assert_eq!(controller.write_data(0xff), ResetLine::Idle);
        assert_ne!(controller.status() & TIMEOUT, 0);
        assert_eq!(controller.read_data(), NO_ANSWER);
        assert_eq!(controller.status() & (TIMEOUT | OUTPUT_FULL), 0);
    }

    #[test]
    fn a_byte_interrupts_until_it_is_read_if_the_configuration_says_so() {
        let mut controller = I8042::default();
        let put = |controller: &mut I8042, command, value| {
            let _ = controller.write_command(command);
            let _ = controller.write_data(value);
            controller.interrupts()
        };
        assert_eq!(put(&mut controller, 0xd2, 1), (false, false));
        assert_eq!(put(&mut controller, 0x60, 3), (true, false));
        assert_eq!(controller.read_data(), 1);
        assert_eq!(controller.interrupts(), (false, false));
        assert_eq!(put(&mut controller, 0xd3, 0x5a), (false, true));
        assert_ne!(controller.status() & OF_MOUSE, 0);
        assert_eq!(controller.read_data(), 0x5a);
        assert_eq!(put(&mut controller, 0xd4, 0xf2), (false, true));
        assert_ne!(controller.status() & TIMEOUT, 0, "there is no mouse either");
    }

    #[test]
    fn the_configuration_byte_reads_back() {
        let mut controller = I8042::default();
        let _ = controller.write_command(0x60);
        let _ = controller.write_data(0x43);
        let _ = controller.write_command(0xad);
        let _ = controller.write_command(0x20);
        assert_eq!(controller.read_data(), 0x53);
    }

    #[test]
    fn both_ways_to_pull_the_reset_line_do() {
        let mut controller = I8042::default();
        assert_eq!(controller.write_command(0xfe), ResetLine::Pulled);
        assert_eq!(controller.write_command(0xff), ResetLine::Idle);
        assert_eq!(controller.write_command(0xd1), ResetLine::Idle);
        assert_eq!(controller.write_data(0xfe), ResetLine::Pulled);
        assert_eq!(controller.write_data(0xfe), ResetLine::Idle, "one byte a command");
    }

    #[test]
    fn the_input_buffer_never_looks_full() {
        let mut controller = I8042::default();
        for command in 0..=u8::MAX {
            let _ = controller.write_command(command);
            let _ = controller.write_data(command);
            assert_eq!(controller.status() & 2, 0, "after command {command:#x}");
        }
    }
}
