//! The hypercalls of a Hermit kernel on uhyve: console, exit, files, arguments.
//!
//! A call is a write to its port of the guest-physical address of its parameters, which hold
//! the result afterwards. A kernel cannot be told that its parameters lie nowhere, so that ends
//! the run.
//!
//! Source: crate uhyve-interface 0.1, `HypercallAddress`, `parameters` (version 1).

use crate::action::Stop;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use crate::uhyve::Errno;
use alloc::vec::Vec;
use anchorite_addr::{Gpa, Gva, PAGE_BYTES};
use anchorite_shadow::AccessKind;
use anchorite_vcpu::Vcpu;
use core::mem::offset_of;
use uhyve_interface::HypercallAddress;
use uhyve_interface::parameters::{
    CloseParams, CmdsizeParams, CmdvalParams, EFAULT, EINVAL, ExitParams, LseekParams, OpenParams,
    ReadParams, SerialWriteBufferParams, UnlinkParams, WriteParams,
};

/// Bytes of a path at most, its end included; as in Linux.
const PATH_BYTES: u64 = 4096;
/// Standard output and error.
const CONSOLE: [i32; 2] = [1, 2];

const NO_PARAMETERS: Stop =
    Stop::Unsupported { what: "a uhyve hypercall with parameters where there is no memory" };

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    #[cold]
    pub(super) fn uhyve(&mut self, call: HypercallAddress, argument: u32) -> Result<(), Stop> {
        let at = Gpa::new(argument.into());
        match call {
            HypercallAddress::Exit => {
                let status = self.parameter(at, offset_of!(ExitParams, arg))?;
                Err(Stop::Exit { status })
            }
            HypercallAddress::Uart => self.print(argument as u8),
            HypercallAddress::SerialBufferWrite => self.print_physical(at),
            HypercallAddress::FileWrite => self.file_write(at),
            HypercallAddress::FileOpen => self.file_open(at),
            HypercallAddress::FileRead => self.file_read(at),
            HypercallAddress::FileLseek => self.file_seek(at),
            HypercallAddress::FileClose => self.file_close(at),
            HypercallAddress::FileUnlink => self.file_unlink(at),
            HypercallAddress::Cmdsize => self.argument_sizes(at),
            HypercallAddress::Cmdval => self.argument_values(at),
            _ => Err(Stop::Unsupported { what: "this hypercall of uhyve" }),
        }
    }

    fn print_physical(&mut self, at: Gpa) -> Result<(), Stop> {
        let mut from = Gpa::new(self.long(at, offset_of!(SerialWriteBufferParams, buf))?);
        let mut rest = self.long(at, offset_of!(SerialWriteBufferParams, len))?;
        while rest > 0 {
            let bytes = rest.min(PAGE_BYTES - from.page_offset());
            self.print_from(from, bytes)?;
            from = from.wrapping_add(bytes);
            rest -= bytes;
        }
        Ok(())
    }

    /// Prints what lies in one page. A buffer may be as long as memory, so each page of it looks
    /// at the clock.
    fn print_from(&mut self, from: Gpa, bytes: u64) -> Result<(), Stop> {
        let mut page = [0; PAGE_BYTES as usize];
        let page = &mut page[..bytes as usize];
        self.memory.read(from, page).map_err(|_| NO_PARAMETERS)?;
        if self.host.ticks() >= self.deadline {
            return Err(Stop::Timeout);
        }
        page.iter().try_for_each(|&byte| self.print(byte))
    }

    /// To the console. The call has no result: what is written to a file, which can only have
    /// been opened for reading, is lost.
    fn file_write(&mut self, at: Gpa) -> Result<(), Stop> {
        let descriptor = self.parameter(at, offset_of!(WriteParams, fd))? as i32;
        let mut from = Gva::new(self.long(at, offset_of!(WriteParams, buf))?);
        let mut rest = self.long(at, offset_of!(WriteParams, len))?;
        while rest > 0 && CONSOLE.contains(&descriptor) {
            let bytes = rest.min(PAGE_BYTES - from.page_offset());
            let gpa = self.lies_at(from, AccessKind::Read).ok_or(NO_PARAMETERS)?;
            self.print_from(gpa, bytes)?;
            from = from.wrapping_add(bytes);
            rest -= bytes;
        }
        Ok(())
    }

    fn file_open(&mut self, at: Gpa) -> Result<(), Stop> {
        let path = self.path(at, offset_of!(OpenParams, name))?;
        let flags = self.parameter(at, offset_of!(OpenParams, flags))? as i32;
        let opened = path.and_then(|path| self.files.open(&path, flags));
        self.answer(at, offset_of!(OpenParams, ret), opened.unwrap_or_else(negative))
    }

    fn file_read(&mut self, at: Gpa) -> Result<(), Stop> {
        let descriptor = self.parameter(at, offset_of!(ReadParams, fd))? as i32;
        let buffer = Gva::new(self.long(at, offset_of!(ReadParams, buf))?);
        let bytes = self.long(at, offset_of!(ReadParams, len))?;
        let done = match self.files.peek(descriptor, bytes) {
            Ok(contents) => self.copy_out(buffer, contents),
            Err(error) => Err(error),
        };
        if let Ok(done) = done {
            self.files.skip(descriptor, done);
        }
        let result = done.map_or_else(|error| i64::from(negative(error)), |done| done as i64);
        self.store(at, offset_of!(ReadParams, ret), &result.to_le_bytes())
    }

    /// Stores at a virtual address, page by page; gives how many bytes went there before the
    /// guest's tables or its memory ended. EFAULT where that was at the first.
    fn copy_out(&mut self, mut to: Gva, contents: &[u8]) -> Result<u64, Errno> {
        let mut done = 0;
        while done < contents.len() {
            let there = (PAGE_BYTES - to.page_offset()) as usize;
            let part = &contents[done..contents.len().min(done + there)];
            let gpa = self.lies_at(to, AccessKind::Write);
            let stored = gpa.is_some_and(|gpa| self.memory.write(gpa, part).is_ok());
            if !stored {
                break;
            }
            to = to.wrapping_add(part.len() as u64);
            done += part.len();
        }
        if done == 0 && !contents.is_empty() { Err(Errno(EFAULT)) } else { Ok(done as u64) }
    }

    fn file_seek(&mut self, at: Gpa) -> Result<(), Stop> {
        let descriptor = self.parameter(at, offset_of!(LseekParams, fd))? as i32;
        let offset = self.long(at, offset_of!(LseekParams, offset))? as i64;
        let whence = self.parameter(at, offset_of!(LseekParams, whence))? as i32;
        let target = self.files.seek(descriptor, offset, whence);
        let target = target.unwrap_or_else(|error| negative(error).into());
        self.store(at, offset_of!(LseekParams, offset), &target.to_le_bytes())
    }

    fn file_close(&mut self, at: Gpa) -> Result<(), Stop> {
        let descriptor = self.parameter(at, offset_of!(CloseParams, fd))? as i32;
        let closed = self.files.close(descriptor);
        self.answer(at, offset_of!(CloseParams, ret), closed.map_or_else(negative, |()| 0))
    }

    fn file_unlink(&mut self, at: Gpa) -> Result<(), Stop> {
        let path = self.path(at, offset_of!(UnlinkParams, name))?;
        let error = path.map_or_else(|error| error, |path| self.files.unlink(&path));
        self.answer(at, offset_of!(UnlinkParams, ret), negative(error))
    }

    /// How many arguments there are and how long each is with its zero byte; no environment. A
    /// newer kernel has both from its device tree.
    fn argument_sizes(&mut self, at: Gpa) -> Result<(), Stop> {
        let sizes: Vec<i32> =
            self.files.arguments().iter().map(|text| text.len() as i32 + 1).collect();
        for (index, &size) in sizes.iter().enumerate() {
            self.answer(at, offset_of!(CmdsizeParams, argsz) + size_of::<i32>() * index, size)?;
        }
        self.answer(at, offset_of!(CmdsizeParams, argc), sizes.len() as i32)?;
        self.answer(at, offset_of!(CmdsizeParams, envc), 0)
    }

    /// Copies the arguments to where the guest's list of addresses says.
    fn argument_values(&mut self, at: Gpa) -> Result<(), Stop> {
        let list = Gpa::new(self.long(at, offset_of!(CmdvalParams, argv))?);
        for index in 0..self.files.arguments().len() {
            let to = Gpa::new(self.long(list, size_of::<u64>() * index)?);
            let mut text = Vec::from(self.files.arguments()[index].as_bytes());
            text.push(0);
            self.store(to, 0, &text)?;
        }
        Ok(())
    }

    /// The text that a parameter points at, up to its zero byte; EINVAL where none comes soon,
    /// EFAULT where its memory ends.
    fn path(&self, at: Gpa, offset: usize) -> Result<Result<Vec<u8>, Errno>, Stop> {
        let start = Gpa::new(self.long(at, offset)?);
        let mut path = Vec::new();
        for index in 0..PATH_BYTES {
            let mut byte = [0];
            if self.memory.read(start.wrapping_add(index), &mut byte).is_err() {
                return Ok(Err(Errno(EFAULT)));
            }
            match byte {
                [0] => return Ok(Ok(path)),
                [byte] => path.push(byte),
            }
        }
        Ok(Err(Errno(EINVAL)))
    }

    /// Where the byte at a virtual address lies, for the guest's own access; its A and D bits
    /// are set. `None` where the guest would fault.
    fn lies_at(&mut self, gva: Gva, kind: AccessKind) -> Option<Gpa> {
        let walk = self.walk_to(gva, kind).ok()?;
        // With one vCPU nobody changes an entry meanwhile; one in a ROM stays as it is.
        let _ = self.memory.mark(&walk);
        Some(walk.gpa)
    }

    fn parameter(&self, at: Gpa, offset: usize) -> Result<u32, Stop> {
        let mut bytes = [0; 4];
        self.memory.read(field(at, offset), &mut bytes).map_err(|_| NO_PARAMETERS)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn long(&self, at: Gpa, offset: usize) -> Result<u64, Stop> {
        let low = self.parameter(at, offset)?;
        let high = self.parameter(at, offset + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn answer(&mut self, at: Gpa, offset: usize, value: i32) -> Result<(), Stop> {
        self.store(at, offset, &value.to_le_bytes())
    }

    fn store(&mut self, at: Gpa, offset: usize, bytes: &[u8]) -> Result<(), Stop> {
        self.memory.write(field(at, offset), bytes).map_err(|_| NO_PARAMETERS)
    }
}

const fn field(at: Gpa, offset: usize) -> Gpa {
    at.wrapping_add(offset as u64)
}

const fn negative(error: Errno) -> i32 {
    -error.0
}

#[cfg(test)]
#[path = "uhyve_tests.rs"]
mod tests;
