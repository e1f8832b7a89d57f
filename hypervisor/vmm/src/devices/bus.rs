//! Which device answers a port or an address, and what that means to the host.

mod effect;

pub use effect::Effect;

use super::cmos::{self, Cmos};
use super::fw_cfg::{self, FwCfg};
use super::i8042::I8042;
use super::irq::{APIC_BASE, Interrupts, line};
use super::mmio_test::MmioTest;
use super::pci::Pci;
use super::pit::Pit;
use super::post::PostCodes;
use super::power::{self, Power};
use super::reset::ResetPorts;
use super::time::Now;
use super::uart::Uart;
use super::unknown::{UnknownPorts, all_ones};
use super::vga::Vga;
use anchorite_abi::{DeviceSet, bench, mmio, port};
use anchorite_addr::{Gpa, GpaPage};
use anchorite_vcpu::Vector;
use uhyve_interface::HypercallAddress;

/// Last port of the first serial line.
const COM1_LAST: u16 = port::COM1 + 7;

/// The I/O APIC's page.
const IO_APIC: u64 = 0xfec0_0000;

/// What of the machine can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How much of a PC there is. The ports of the guest protocol are always there.
    pub set: DeviceSet,
    /// What the real-time clock and the CMOS memory tell.
    pub cmos: cmos::Config,
    /// Where the test device of [`mmio`] lies; `None` leaves it out.
    pub mmio_test: Option<GpaPage>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            set: DeviceSet::default(),
            cmos: cmos::Config::default(),
            mmio_test: GpaPage::new(Gpa::new(mmio::DEVICE)),
        }
    }
}

/// Whose registers a page holds.
#[derive(Clone, Copy)]
enum ApicPage {
    Local,
    Io,
}

/// Every device of the machine, and the way to them.
#[derive(Clone, Debug)]
pub struct Devices {
    config: Config,
    /// Interrupts waiting for the vCPU; ask before every entry.
    pub interrupts: Interrupts,
    /// The TSC at which [`advance`](Self::advance) has something to do.
    deadline: u64,
    /// The same of the real-time clock alone, which is dear to compute.
    cmos_deadline: Option<u64>,
    /// The serial line.
    pub uart: Uart,
    /// POST codes written so far.
    pub post: PostCodes,
    /// Ports that nothing answered.
    pub unknown: UnknownPorts,
    /// The text screen's registers.
    pub vga: Vga,
    /// What the machine tells of itself.
    pub fw_cfg: FwCfg,
    pit: Pit,
    cmos: Cmos,
    i8042: I8042,
    reset: ResetPorts,
    pci: Pci,
    power: Power,
    mmio_test: MmioTest,
    /// The guest is a Hermit kernel: uhyve's ports are there.
    uhyve: bool,
}

impl Default for Devices {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Devices {
    /// A machine just reset.
    pub fn new(config: Config) -> Self {
        // The timer's output is high until a guest programs it.
        let mut interrupts = match config.set {
            DeviceSet::L4 => Interrupts::with_apics(),
            _ => Interrupts::default(),
        };
        interrupts.set_line(line::TIMER, true);
        Self {
            config,
            interrupts,
            deadline: u64::MAX,
            cmos_deadline: None,
            uart: Uart::default(),
            post: PostCodes::default(),
            unknown: UnknownPorts::default(),
            vga: Vga::default(),
            fw_cfg: FwCfg::default(),
            pit: Pit::default(),
            cmos: if config.set >= DeviceSet::L3 { Cmos::new(config.cmos) } else { Cmos::flat() },
            reset: ResetPorts::default(),
            pci: Pci::default(),
            power: Power::default(),
            i8042: I8042::default(),
            mmio_test: MmioTest::default(),
            uhyve: false,
        }
    }

    /// Adds the ports of uhyve's hypercalls. Writes of 4 bytes to them, all beside other
    /// devices' ports, mean a call.
    pub const fn add_uhyve(&mut self) {
        self.uhyve = true;
    }

    /// IN: the low `size` bytes (1, 2 or 4) of the result are what the guest reads.
    pub fn read(&mut self, port: u16, size: u8, now: Now) -> u32 {
        if size == 1 {
            return self.read_byte(port, now).into();
        }
        if !is_byte_wide(port) {
            return self.read_wide(port, size, now);
        }
        (0..u16::from(size.min(4))).fold(0, |value, index| {
            let byte = self.read_byte(port.wrapping_add(index), now);
            value | u32::from(byte) << (8 * index)
        })
    }

    /// OUT of the low `size` bytes (1, 2 or 4) of `value`.
    ///
    /// The run loop tests for [`port::BENCH_LIGHTEST`] before it comes here.
    #[inline]
    pub fn write(&mut self, port: u16, size: u8, value: u32, now: Now) -> Effect {
        match (port, size) {
            (port::EXIT, _) => Effect::Exit { status: value & all_ones(size) },
            (port::END_OF_RUN, 4) => Effect::EndOfRun { status: value },
            (port::BENCH_COMMAND, 4) => {
                bench::Command::decode(value).map_or(Effect::None, Effect::Bench)
            }
            (_, 1) => self.write_byte(port, value as u8, now),
            _ => self.write_bytes(port, size, value, now),
        }
    }

    /// A load of `size` bytes (1, 2, 4 or 8) from an address without RAM; all ones
    /// where no device lies. `None` says so, for a counter.
    #[inline]
    pub fn read_mmio(&mut self, gpa: Gpa, size: u8, now: Now) -> Option<u64> {
        let value = match self.apic_at(gpa) {
            Some(ApicPage::Local) => self.interrupts.read_apic((gpa.page_offset() >> 4) as u8, now),
            Some(ApicPage::Io) => self.interrupts.read_io_apic(gpa.page_offset()),
            None => {
                let offset = self.mmio_test_offset(gpa)?;
                return Some(self.mmio_test.read(offset, size));
            }
        };
        // Registers are 32 bits wide and 16 bytes apart; other bytes read zero.
        Some(u64::from(value) >> (8 * (gpa.page_offset() & 3)))
    }

    /// A store of the low `size` bytes (1, 2, 4 or 8) of `value` to an address
    /// without RAM; `None` where no device lies.
    #[inline]
    pub fn write_mmio(&mut self, gpa: Gpa, size: u8, value: u64, now: Now) -> Option<Effect> {
        let offset = gpa.page_offset();
        match self.apic_at(gpa) {
            // What is not a whole register is undefined; it does nothing here.
            Some(_) if offset % 16 != 0 || size < 4 => {}
            Some(ApicPage::Local) => return Some(self.write_apic(offset, value as u32, now)),
            Some(ApicPage::Io) => self.interrupts.write_io_apic(offset, value as u32),
            None => {
                let offset = self.mmio_test_offset(gpa)?;
                self.mmio_test.write(offset, size, value);
            }
        }
        Some(Effect::None)
    }

    /// A byte typed at the host's console. `false`: the guest has not taken the
    /// earlier ones yet; offer it again later.
    pub fn input(&mut self, byte: u8, now: Now) -> bool {
        let taken = self.uart.receive(byte, now);
        self.update_uart();
        taken
    }

    /// Lets time pass: raises interrupts that have become due.
    pub fn advance(&mut self, now: Now) {
        self.interrupts.advance(now);
        if self.pit.advance(now) {
            self.interrupts.set_line(line::TIMER, false);
            self.interrupts.set_line(line::TIMER, true);
        }
        if self.cmos_deadline.is_some_and(|tsc| now.tsc >= tsc) {
            self.cmos.advance(now);
            self.update_cmos(now);
        }
        self.uart.advance(now);
        self.update_uart();
    }

    /// The TSC at which [`advance`](Self::advance) has something to do; `u64::MAX`
    /// where nothing is going to happen by itself.
    #[inline]
    pub const fn deadline(&self) -> u64 {
        self.deadline
    }

    /// WRMSR of `value` to 0x800 + `number`, a register of the local APIC in x2APIC mode;
    /// `None` where that faults.
    pub fn write_apic_msr(&mut self, number: u8, value: u64, now: Now) -> Option<Effect> {
        let asked = self.interrupts.write_apic_msr(number, value, now)?;
        self.update_deadline();
        Some(Effect::of_apic(asked))
    }

    fn read_byte(&mut self, port: u16, now: Now) -> u8 {
        match port {
            port::COM1..=COM1_LAST => self.read_uart(port, now),
            0x20 | 0x21 | 0xa0 | 0xa1 if self.has(DeviceSet::L1) => self.interrupts.read_pic(port),
            0x4d0 | 0x4d1 if self.has(DeviceSet::L1) => self.interrupts.read_trigger(port),
            0x40 | 0x43 if self.has(DeviceSet::L2) => self.pit.read(port as u8 & 3, now),
            0x41 | 0x42 if self.has(DeviceSet::L3) => self.pit.read(port as u8 & 3, now),
            0x61 if self.has(DeviceSet::L3) => self.pit.read_port_b(now),
            0x60 if self.has(DeviceSet::L3) => {
                let value = self.i8042.read_data();
                self.update_i8042();
                value
            }
            0x92 if self.has(DeviceSet::L3) => self.reset.read_port_a(),
            0xcf9 if self.has(DeviceSet::L3) => self.reset.read_control(),
            0x64 if self.has(DeviceSet::L3) => self.i8042.status(),
            0x71 => {
                let value = self.cmos.read(now);
                self.update_cmos(now);
                value
            }
            fw_cfg::SELECTOR | fw_cfg::DATA if self.has(DeviceSet::L3) => self.fw_cfg.read(),
            port::POST => self.post.latest(),
            port::DEBUG_CONSOLE => port::DEBUG_CONSOLE as u8,
            0x3cc => self.vga.misc(),
            0x3d4 => self.vga.index(),
            0x3d5 => self.vga.read_crtc(),
            0x3da => self.vga.status(now),
            port::BENCH_NOP | port::BENCH_LIGHTEST | port::RAISE_NMI => 0,
            port::RAISE_INTERRUPT => self.interrupts.queued().min(0xff) as u8,
            0xcfc..=0xcff | power::PORT..=power::LAST_PORT => self.read_wide(port, 1, now) as u8,
            _ => self.unknown.read(port, 1) as u8,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Now) -> Effect {
        match port {
            port::COM1..=COM1_LAST => return self.write_uart(port, value, now),
            port::DEBUG_CONSOLE => return Effect::Print(value),
            port::BENCH_NOP | port::BENCH_LIGHTEST => {}
            port::POST => self.post.record(value, now.tsc),
            0x20 | 0x21 | 0xa0 | 0xa1 if self.has(DeviceSet::L1) => {
                self.interrupts.write_pic(port, value);
            }
            0x4d0 | 0x4d1 if self.has(DeviceSet::L1) => self.interrupts.write_trigger(port, value),
            0x40 | 0x43 if self.has(DeviceSet::L2) => self.write_pit(port, value, now),
            0x41 | 0x42 if self.has(DeviceSet::L3) => self.write_pit(port, value, now),
            0x61 if self.has(DeviceSet::L3) => self.pit.write_port_b(value, now),
            0x60 | 0x64 if self.has(DeviceSet::L3) => return self.write_i8042(port, value),
            0x92 if self.has(DeviceSet::L3) => {
                return Effect::of_reset(self.reset.write_port_a(value));
            }
            0xcf9 if self.has(DeviceSet::L3) => {
                return Effect::of_reset(self.reset.write_control(value));
            }
            0x70 => self.cmos.select(value),
            0x71 => {
                self.cmos.write(value, now);
                self.update_cmos(now);
            }
            fw_cfg::SELECTOR | fw_cfg::DATA if self.has(DeviceSet::L3) => {}
            0x3c2 => self.vga.set_misc(value),
            0x3d4 => self.vga.select(value),
            0x3d5 => self.vga.write_crtc(value),
            port::RAISE_INTERRUPT => self.interrupts.raise(Vector(value)),
            port::RAISE_NMI => return Effect::RaiseNmi,
            0xcfc..=0xcff | power::PORT..=power::LAST_PORT => {
                return self.write_wide(port, 1, value.into(), now);
            }
            _ => self.unknown.write(port),
        }
        Effect::None
    }

    /// A wide access to byte-wide devices is one access a byte, as on an ISA bus.
    fn write_bytes(&mut self, port: u16, size: u8, value: u32, now: Now) -> Effect {
        if !is_byte_wide(port) {
            return self.write_wide(port, size, value, now);
        }
        let bytes = value.to_le_bytes().into_iter().take(size.into());
        (0_u16..).zip(bytes).fold(Effect::None, |effect, (index, byte)| {
            effect.or(self.write_byte(port.wrapping_add(index), byte, now))
        })
    }

    /// A wide access to what is not split into bytes.
    fn read_wide(&mut self, port: u16, size: u8, now: Now) -> u32 {
        match port {
            0xcf8 if size == 4 && self.has(DeviceSet::L4) => self.pci.address(),
            0xcfc..=0xcff if self.has(DeviceSet::L4) => all_ones(size),
            fw_cfg::DMA_HIGH | fw_cfg::DMA_LOW if size == 4 && self.has(DeviceSet::L3) => {
                FwCfg::read_dma(port)
            }
            power::PORT..=power::LAST_PORT if self.has(DeviceSet::L4) => {
                self.power.read(port - power::PORT, size, now)
            }
            _ => self.unknown.read(port, size),
        }
    }

    fn write_wide(&mut self, port: u16, size: u8, value: u32, now: Now) -> Effect {
        match port {
            0xcf8 if size == 4 && self.has(DeviceSet::L4) => self.pci.set_address(value),
            0xcfc..=0xcff if self.has(DeviceSet::L4) => {}
            fw_cfg::SELECTOR if size == 2 && self.has(DeviceSet::L3) => {
                self.fw_cfg.select(value as u16);
            }
            fw_cfg::DMA_HIGH | fw_cfg::DMA_LOW if size == 4 && self.has(DeviceSet::L3) => {
                let command = self.fw_cfg.write_dma(port, value);
                return command.map_or(Effect::None, |command| Effect::FwCfg { command });
            }
            power::PORT..=power::LAST_PORT if self.has(DeviceSet::L4) => {
                if self.power.write(port - power::PORT, size, value, now) {
                    return Effect::PowerOff;
                }
            }
            _ => return self.write_hypercall(port, size, value),
        }
        Effect::None
    }

    fn write_hypercall(&mut self, port: u16, size: u8, argument: u32) -> Effect {
        match HypercallAddress::try_from(port) {
            Ok(call) if self.uhyve && size == 4 => Effect::Uhyve { call, argument },
            _ => {
                self.unknown.write(port);
                Effect::None
            }
        }
    }

    fn write_apic(&mut self, offset: u64, value: u32, now: Now) -> Effect {
        let asked = self.interrupts.write_apic((offset >> 4) as u8, value, now);
        self.update_deadline();
        Effect::of_apic(asked)
    }

    #[inline]
    fn apic_at(&self, gpa: Gpa) -> Option<ApicPage> {
        match gpa.as_u64() & !0xfff {
            APIC_BASE if self.interrupts.has_apic_in_memory() => Some(ApicPage::Local),
            IO_APIC if self.has(DeviceSet::L4) => Some(ApicPage::Io),
            _ => None,
        }
    }

    fn read_uart(&mut self, port: u16, now: Now) -> u8 {
        let value = self.uart.read(port as u8 & 7, now);
        self.update_uart();
        value
    }

    /// The line is moved before and after the byte leaves: the transmitter is full
    /// for an instant, and the edge of its becoming empty again is an interrupt.
    fn write_uart(&mut self, port: u16, value: u8, now: Now) -> Effect {
        self.uart.write(port as u8 & 7, value, now);
        self.interrupts.set_line(line::UART, self.uart.interrupt());
        let sent = self.uart.transmit(now);
        self.update_uart();
        sent.map_or(Effect::None, Effect::Serial)
    }

    fn update_uart(&mut self) {
        self.interrupts.set_line(line::UART, self.uart.interrupt());
        self.update_deadline();
    }

    fn write_pit(&mut self, port: u16, value: u8, now: Now) {
        self.pit.write(port as u8 & 3, value, now);
        self.interrupts.set_line(line::TIMER, self.pit.timer_output(now));
        self.update_deadline();
    }

    fn write_i8042(&mut self, port: u16, value: u8) -> Effect {
        let line = match port {
            0x60 => self.i8042.write_data(value),
            _ => self.i8042.write_command(value),
        };
        self.update_i8042();
        Effect::of_reset(line)
    }

    fn update_i8042(&mut self) {
        let (keyboard, mouse) = self.i8042.interrupts();
        self.interrupts.set_line(line::KEYBOARD, keyboard);
        self.interrupts.set_line(line::MOUSE, mouse);
    }

    fn update_cmos(&mut self, now: Now) {
        self.interrupts.set_line(line::CLOCK, self.cmos.interrupt());
        self.cmos_deadline = self.cmos.deadline(now);
        self.update_deadline();
    }

    fn update_deadline(&mut self) {
        let deadlines = [
            self.uart.deadline(),
            self.pit.deadline(),
            self.cmos_deadline,
            self.interrupts.deadline(),
        ];
        self.deadline = deadlines.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    #[inline]
    fn has(&self, set: DeviceSet) -> bool {
        self.config.set >= set
    }

    fn mmio_test_offset(&self, gpa: Gpa) -> Option<u64> {
        let page = self.config.mmio_test?;
        (gpa.page() == page).then(|| gpa.page_offset())
    }
}

/// Whether a wide access that starts at `port` is split into bytes rather than
/// unknown as a whole.
const fn is_byte_wide(port: u16) -> bool {
    matches!(
        port,
        port::COM1..=COM1_LAST
            | 0x20..=0x21
            | 0x40..=0x43
            | 0xa0..=0xa1
            | 0x4d0..=0x4d1
            | 0x60..=0x64
            | 0x70..=0x71
            | port::POST
            | 0x92
            | port::DEBUG_CONSOLE
            | 0x3c0..=0x3df
            | port::BENCH_NOP..=port::RAISE_NMI
    )
}

#[cfg(test)]
mod tests;
