//! The machine's state for a reader, when something went wrong.

use crate::action::Stop;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_vcpu::{ControlRegister, DescriptorTable, SegmentRegister, Vcpu};
use core::fmt::{self, Write};

/// The host's console as a sink for formatted text.
#[derive(Debug)]
pub struct Console<'a, H>(pub &'a mut H);

impl<H: Host> Write for Console<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.console_write(text.as_bytes());
        Ok(())
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Writes why the run ended, the registers, the code at RIP and the control
    /// structure to the console.
    pub(crate) fn dump(&mut self, stop: &Stop) {
        let code = self.instruction_bytes().ok();
        let code = code.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        let mut console = Console(&mut self.host);
        // Nothing can be done about a console that fails.
        let _ = write_state(&self.vcpu, stop, code, &mut console);
    }
}

fn write_state(vcpu: &impl Vcpu, stop: &Stop, code: &[u8], out: &mut impl Write) -> fmt::Result {
    writeln!(out, "\n--- {stop}; the machine:\n{}", vcpu.regs())?;
    if let Stop::EntryFailure { code } = stop {
        writeln!(out, "{}", vcpu.explain_entry_failure(*code))?;
    }
    writeln!(out, "code {code:02x?}  cpl {}", vcpu.cpl())?;
    write_control(vcpu, out)?;
    for register in SegmentRegister::ALL {
        let segment = vcpu.segment(register);
        write!(out, "{register:>4?} {:04x} base {:016x}", segment.selector, segment.base)?;
        writeln!(out, " limit {:08x} attributes {:05x}", segment.limit, segment.attributes.bits())?;
    }
    write_table("gdtr", vcpu.gdtr(), out)?;
    write_table("idtr", vcpu.idtr(), out)?;
    if let Some(event) = vcpu.interrupted_event() {
        writeln!(out, "interrupted {event:?}")?;
    }
    writeln!(out, "--- the control structure:")?;
    vcpu.dump(out)?;
    writeln!(out, "---")
}

fn write_control(vcpu: &impl Vcpu, out: &mut impl Write) -> fmt::Result {
    use ControlRegister::{Cr0, Cr2, Cr3, Cr4, Cr8, Efer};
    for register in [Cr0, Cr2, Cr3, Cr4, Cr8, Efer] {
        write!(out, "{register:?}={:x}  ", vcpu.control(register))?;
    }
    writeln!(out)
}

fn write_table(name: &str, table: DescriptorTable, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "{name} base {:016x} limit {:04x}", table.base, table.limit)
}
