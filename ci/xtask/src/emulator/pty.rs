//! A pseudo-terminal: Bochs' text display wants one, and its debugger waits there for a word; an
//! interactive run is typed into through one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Error, Result};

/// What the debugger prints when it waits for a command.
const PROMPT: &[u8] = b"<bochs:";

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Ours.
    controller: OwnedFd,
    /// The emulator's.
    user: OwnedFd,
}

impl Terminal {
    /// A terminal of 80 columns and 50 rows, so that a whole VGA screen fits.
    pub(super) fn open() -> Result<Self> {
        let failed = |source: rustix::io::Errno| Error::Io {
            path: "/dev/ptmx".into(),
            source: source.into(),
        };
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(failed)?;
        grantpt(&controller).map_err(failed)?;
        unlockpt(&controller).map_err(failed)?;
        let name = ptsname(&controller, Vec::new()).map_err(failed)?;
        let user = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).map_err(failed)?;
        let size = Winsize { ws_row: 50, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).map_err(failed)?;
        Ok(Self { controller, user })
    }

    /// The emulator's end three times.
    pub(super) fn stdio(&self) -> Result<[Stdio; 3]> {
        let copy = || self.user.try_clone().map(Stdio::from).map_err(Error::io("/dev/pts"));
        Ok([copy()?, copy()?, copy()?])
    }

    /// What is written here the emulator reads as typed.
    pub(super) fn keyboard(&self) -> Result<File> {
        self.controller.try_clone().map(File::from).map_err(Error::io("/dev/ptmx"))
    }

    /// Reads and drops what the emulator draws; tells its debugger to continue at the first
    /// prompt, and to quit at any later one, for then the machine has stopped for good.
    pub(super) fn answer_debugger(&self) {
        let Ok(controller) = self.controller.try_clone() else {
            return;
        };
        thread::spawn(move || converse(File::from(controller)));
    }
}

/// Ends when the emulator has closed its end, which a read reports as an error.
fn converse(mut controller: File) {
    let mut answers = ["c\n"].into_iter().chain(std::iter::repeat("quit\n"));
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = controller.read(&mut piece) {
        seen.extend_from_slice(&piece[..length]);
        while let Some(end) = prompt_end(&seen) {
            seen.drain(..end);
            let answer = answers.next().unwrap_or("quit\n");
            if controller.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        let keep = seen.len().min(PROMPT.len() - 1);
        seen.drain(..seen.len() - keep);
    }
}

/// Where the first prompt in `text` ends.
fn prompt_end(text: &[u8]) -> Option<usize> {
    let start = text.windows(PROMPT.len()).position(|window| window == PROMPT)?;
    Some(start + PROMPT.len())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_debugger_is_told_to_continue_once_and_then_to_quit() {
        let terminal = Terminal::open().unwrap();
        let script = "printf '<bo'; printf 'chs:1> '; read a; printf '<bochs:2> '; read b; \
                      test \"$a $b\" = 'c quit'";
        let [stdin, stdout, stderr] = terminal.stdio().unwrap();
        let mut command = Command::new("timeout");
        command.args(["20", "sh", "-c", script]).stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().unwrap();
        terminal.answer_debugger();
        assert!(child.wait().unwrap().success());
    }
}
