//! Child processes that cannot hang and are not left behind.
//!
//! Every child leads a process group of its own and has a time limit. The groups that are alive
//! are registered, and an interrupt (Ctrl-C, SIGTERM, SIGHUP) kills them before xtask ends. (The
//! one exception is apt-get while it installs: broken off it would leave the system half changed.)
//! Should xtask itself be killed, `setpriv --pdeathsig` (util-linux) takes emulators along.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio, exit};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Result};

/// How often a waiting loop looks.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// The process groups that are alive.
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<u32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an interrupt kill all children and end xtask with status 130.
pub(crate) fn kill_children_on_interrupt() {
    let installed = ctrlc::set_handler(|| {
        for group in groups().iter() {
            kill_group(*group);
        }
        eprintln!("interrupted");
        exit(130);
    });
    if let Err(error) = installed {
        eprintln!("note: an interrupt may leave an emulator behind: {error}");
    }
}

fn kill_group(group: u32) {
    let pid = i32::try_from(group).ok().and_then(Pid::from_raw);
    // A group that has just ended by itself is what we want.
    let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
}

/// A running child; dropped, it is killed with all its group.
#[derive(Debug)]
pub(crate) struct Running {
    program: String,
    child: Child,
    started: Instant,
    reaped: bool,
}

impl Running {
    /// Starts a program as the leader of a new process group, without standard input unless
    /// the caller has set one.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        // Holding the lock keeps an interrupt from missing a child that has just been born.
        let mut groups = groups();
        let child =
            command.spawn().map_err(|source| Error::Spawn { program: program.clone(), source })?;
        groups.insert(child.id());
        Ok(Self { program, child, started: Instant::now(), reaped: false })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Its status, once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self
            .child
            .try_wait()
            .map_err(|source| Error::Spawn { program: self.program.clone(), source })?;
        self.reaped |= status.is_some();
        Ok(status)
    }

    /// Waits for its end; kills it when `limit` has passed since its start.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if self.elapsed() > limit {
                self.kill();
                let program = self.program.clone();
                return Err(Error::TimedOut { program, limit });
            }
            thread::sleep(POLL);
        }
    }

    /// Kills the whole group and reaps the child, unless it has ended by itself: its number may
    /// belong to somebody else by now.
    pub(crate) fn kill(&mut self) {
        if self.reaped {
            return;
        }
        kill_group(self.child.id());
        self.reaped = self.child.wait().is_ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        groups().remove(&self.child.id());
    }
}

/// Runs a program to its end, its output going where ours goes; an error unless it succeeds.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    command.stdin(Stdio::null());
    let status = Running::start(command)?.wait(limit)?;
    check(command, status)
}

/// Runs a program that must not be broken off: an interrupt leaves it alone, and so does the end
/// of xtask, which is why its output goes nowhere (its complaints do come out).
pub(crate) fn run_unbroken(command: &mut Command) -> Result<()> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let status = command.status().map_err(|source| Error::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    check(command, status)
}

/// Runs a program to its end and returns what it printed on standard output.
pub(crate) fn capture(command: &mut Command, limit: Duration) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    let reader = running.child().stdout.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // A broken pipe means that the child has gone; its status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    });
    let status = running.wait(limit);
    drop(running);
    let bytes = reader.and_then(|reader| reader.join().ok());
    check(command, status?)?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    // Where a compiler is installed says nothing about why it failed.
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    Err(Error::Failed { program: words.map(quoted).collect::<Vec<_>>().join(" "), status })
}

/// The command as one could type it into a shell.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Is there a program of this name on PATH?
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_child_that_outlives_its_limit_is_killed_with_its_own_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped());
        let mut running = Running::start(&mut command).unwrap();
        let mut pipe = running.child().stdout.take().unwrap();
        let mut line = [0; 16];
        let length = pipe.read(&mut line).unwrap();
        let grandchild = std::str::from_utf8(&line[..length]).unwrap().trim().to_owned();

        let outcome = running.wait(Duration::from_millis(50));

        assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        // A killed process dies when it is next scheduled, which a busy machine delays.
        let dead = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            stat.map_or(true, |stat| stat.contains(" Z "))
        };
        let killed = Instant::now();
        while !dead() && killed.elapsed() < SOON {
            thread::sleep(POLL);
        }
        assert!(dead(), "the grandchild lives");
    }

    #[test]
    fn a_failing_program_is_named_with_its_arguments() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]), SOON).unwrap_err();
        assert_eq!(error.to_string(), "sh -c 'exit 3' failed: exit status: 3");
    }

    #[test]
    fn output_larger_than_a_pipe_is_captured() {
        let mut command = Command::new("head");
        command.args(["-c", "300000", "/dev/zero"]);
        assert_eq!(capture(&mut command, SOON).unwrap().len(), 300_000);
    }

    #[test]
    fn shown_commands_survive_a_shell() {
        let mut command = Command::new("qemu");
        command.args(["-append", "mem=64 --", "it's", ""]);
        assert_eq!(shown(&command), r"qemu -append 'mem=64 --' 'it'\''s' ''");
    }
}
