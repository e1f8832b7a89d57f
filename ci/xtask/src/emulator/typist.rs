//! Somebody at the terminal of an interactive run: waits for a text, types an answer.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use super::pty::Terminal;
use crate::error::{Error, Result};

/// What is typed once a text has come.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Typed {
    /// Waited for on the console, after what was waited for before.
    pub(crate) after: String,
    /// Typed then; may be empty.
    pub(crate) text: String,
}

/// The typist and the terminal in front of him.
#[derive(Debug)]
pub(super) struct Typist {
    terminal: Terminal,
    keyboard: File,
    /// What is still to be typed.
    rest: Vec<Typed>,
    /// What has come since the last text that was waited for.
    seen: Vec<u8>,
}

impl Typist {
    /// A terminal with nobody reading yet.
    pub(super) fn new(typed: &[Typed]) -> Result<Self> {
        let terminal = Terminal::open()?;
        let keyboard = terminal.keyboard()?;
        Ok(Self { terminal, keyboard, rest: typed.to_vec(), seen: Vec::new() })
    }

    /// The emulator's standard input.
    pub(super) fn stdin(&self) -> Result<Stdio> {
        self.terminal.stdio().map(|[stdin, ..]| stdin)
    }

    /// Takes what has come on the console, and types what is due.
    pub(super) fn see(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen.extend_from_slice(bytes);
        while let Some(end) = self.rest.first().and_then(|next| end_of(&next.after, &self.seen)) {
            self.seen.drain(..end);
            let next = self.rest.remove(0);
            self.keyboard.write_all(next.text.as_bytes()).map_err(Error::io("/dev/ptmx"))?;
        }
        Ok(())
    }
}

/// Where `text` ends in `seen`.
fn end_of(text: &str, seen: &[u8]) -> Option<usize> {
    let length = text.len();
    let start = seen.windows(length.max(1)).position(|window| window == text.as_bytes());
    start.map(|start| start + length)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn typed(after: &str, text: &str) -> Typed {
        Typed { after: after.into(), text: text.into() }
    }

    #[test]
    fn an_answer_is_typed_once_its_text_has_come_in_whatever_pieces() {
        let mut typist = Typist::new(&[typed("name? ", "me\n"), typed("sure? ", "yes\n")]).unwrap();
        let script = "read a; read b; test \"$a $b\" = 'me yes'";
        let mut command = Command::new("timeout");
        command.args(["20", "sh", "-c", script]).stdin(typist.stdin().unwrap());
        let mut child = command.spawn().unwrap();
        // The second text comes too early once, and does not count then.
        for piece in ["sure? na", "me", "? ", "su", "re? "] {
            typist.see(piece.as_bytes()).unwrap();
        }
        assert!(child.wait().unwrap().success());
        assert!(typist.rest.is_empty());
    }
}
