//! IN, OUT, INS, OUTS.

use crate::action::{ExitAction, Stop};
use crate::devices::Effect;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_abi::bench::Command;
use anchorite_abi::port;
use anchorite_addr::Gpa;
use anchorite_vcpu::exit::{Direction, IoExit};
use anchorite_vcpu::{ControlRegister, Gpr, Vcpu};

/// A write to the benchmark's port that is to cost as little as it can.
#[inline]
pub(crate) fn is_lightest(io: IoExit) -> bool {
    io.port == port::BENCH_LIGHTEST && io.direction == Direction::Out && !io.string
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// A port access; the run loop looks for the [lightest](is_lightest) itself.
    pub(crate) fn io(&mut self, io: IoExit) -> ExitAction {
        if io.string {
            return self.emulate("a string port instruction", None);
        }
        match io.direction {
            Direction::Out => self.port_out(io),
            Direction::In => self.port_in(io),
        }
    }

    fn port_out(&mut self, io: IoExit) -> ExitAction {
        let value = self.vcpu.regs()[Gpr::Rax] as u32;
        let effect = self.devices.write(io.port, io.size, value, self.now());
        let done = match effect {
            Effect::None => Ok(()),
            // Here, where it costs no call, for a zap-all is timed with its way through here.
            Effect::Bench(Command::ZapAll { timed }) => {
                self.zap_by_guest(timed);
                Ok(())
            }
            effect => self.perform(effect),
        };
        if let Err(stop) = done {
            return ExitAction::Stop(stop);
        }
        self.rearm();
        self.skip_io(io)
    }

    fn port_in(&mut self, io: IoExit) -> ExitAction {
        let value = u64::from(self.devices.read(io.port, io.size, self.now()));
        let rax = &mut self.vcpu.regs_mut()[Gpr::Rax];
        *rax = match io.size {
            1 => *rax & !0xff | value & 0xff,
            2 => *rax & !0xffff | value & 0xffff,
            _ => value,
        };
        self.rearm();
        self.skip_io(io)
    }

    #[inline]
    fn skip_io(&mut self, io: IoExit) -> ExitAction {
        match self.io_length(io) {
            Some(length) => ExitAction::SkipInstruction(length),
            None => self.skip(),
        }
    }

    /// The instruction's length, where the exit tells what comes next.
    #[inline]
    pub(crate) fn io_length(&self, io: IoExit) -> Option<u8> {
        let next = io.next_rip?;
        Some(next.wrapping_sub(self.vcpu.regs().rip) as u8 & 15)
    }

    /// Carries out what a device asks of the host.
    pub(super) fn perform(&mut self, effect: Effect) -> Result<(), Stop> {
        match effect {
            Effect::None => {}
            // A benchmark that said it is done has passed, whatever it leaves in EAX.
            Effect::EndOfRun { .. } if self.bench.done => return Err(Stop::Exit { status: 0 }),
            Effect::Exit { status } | Effect::EndOfRun { status } => {
                return Err(Stop::Exit { status });
            }
            Effect::Print(byte) | Effect::Serial(byte) => return self.print(byte),
            Effect::Bench(command) => return self.bench(command),
            Effect::RaiseNmi => self.events.nmi = true,
            Effect::Priority(priority) => {
                self.vcpu.set_control(ControlRegister::Cr8, priority.into());
            }
            Effect::Reset => return Err(Stop::Reset),
            Effect::PowerOff => return Err(Stop::PowerOff),
            Effect::FwCfg { command } => self.fw_cfg_command(Gpa::new(command)),
            Effect::Uhyve { call, argument } => return self.uhyve(call, argument),
        }
        Ok(())
    }

    pub(super) fn print(&mut self, byte: u8) -> Result<(), Stop> {
        self.bench.mid_line = byte != b'\n';
        self.host.console_write(&[byte]);
        let complete = self.until.as_mut().is_some_and(|until| until.completes(byte));
        if complete { Err(Stop::Printed) } else { Ok(()) }
    }
}
