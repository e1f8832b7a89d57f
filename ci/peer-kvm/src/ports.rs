//! The benchmark protocol's ports, and the two consoles.

use std::io::Write;

use anchorite_abi::bench::Command;
use anchorite_abi::port;

use crate::Failure;
use crate::machine::{Vm, ticks};
use crate::records::Records;

/// Line status of the first serial line: ready to send, nothing received.
const LINE_STATUS: u16 = port::COM1 + 5;
const READY: u8 = 0x60;

/// Whether the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    GoOn,
    End(u32),
}

/// What the guest has told by its ports.
pub(crate) struct Ports {
    records: Records,
    begun: u64,
    booted: bool,
    done: bool,
    /// The line that the guest is printing.
    line: Vec<u8>,
}

impl Ports {
    pub(crate) fn new(begun: u64) -> Self {
        Self { records: Records::default(), begun, booted: false, done: false, line: Vec::new() }
    }

    pub(crate) fn write(&mut self, port: u16, data: &[u8], vm: &Vm) -> Result<After, Failure> {
        let value = data.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte));
        match port {
            port::BENCH_COMMAND if data.len() == 4 => return self.command(value, vm),
            port::END_OF_RUN if self.done => return Ok(self.end(0)),
            port::END_OF_RUN | port::EXIT => return Ok(self.end(value)),
            port::DEBUG_CONSOLE | port::COM1 => data.iter().for_each(|byte| self.print(*byte)),
            _ => {}
        }
        Ok(After::GoOn)
    }

    pub(crate) fn read(port: u16, data: &mut [u8]) {
        data.fill(match port {
            port::DEBUG_CONSOLE => port::DEBUG_CONSOLE as u8,
            LINE_STATUS => READY,
            port::BENCH_NOP | port::BENCH_LIGHTEST => 0,
            _ => 0xff,
        });
    }

    fn command(&mut self, value: u32, vm: &Vm) -> Result<After, Failure> {
        match Command::decode(value) {
            Some(Command::ZapAll { timed }) => {
                let ticks = vm.zap_all()?;
                if timed {
                    self.records.zap(ticks);
                }
            }
            Some(Command::Limit(pages)) => vm.set_limit(pages.into())?,
            Some(Command::Boot) if !self.booted => {
                self.booted = true;
                self.records.created(ticks() - self.begun);
                vm.serve_benchmarks()?;
            }
            Some(Command::Begin(id)) => self.records.begin(id)?,
            Some(Command::End(id)) => self.records.end(id)?,
            Some(Command::Done) => {
                self.done = true;
                self.records.tell_zaps();
            }
            Some(Command::Panic(code)) => return Ok(self.end(code.max(1))),
            Some(Command::Boot | Command::Sample) | None => {}
        }
        Ok(After::GoOn)
    }

    fn end(&mut self, status: u32) -> After {
        self.records.tell_zaps();
        if !self.line.is_empty() {
            self.print(b'\n');
        }
        After::End(status)
    }

    /// Lines go out whole: a record never comes into the middle of one.
    fn print(&mut self, byte: u8) {
        self.line.push(byte);
        if byte == b'\n' {
            let mut out = std::io::stdout().lock();
            // A console that is gone cannot be told so.
            let _ = out.write_all(&self.line).and_then(|()| out.flush());
            self.line.clear();
        }
    }
}
