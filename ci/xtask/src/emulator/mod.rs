//! Runs the image in an emulator, shows its console live and brings back a verdict.

mod bochs;
mod console;
mod pty;
mod qemu;
mod tsc;
mod typist;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use console::Console;
pub(crate) use console::Marked;
pub(crate) use qemu::{RTC, TCG_CPU};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
pub(crate) use tsc::megahertz as tsc_megahertz;
pub(crate) use typist::Typed;
use typist::Typist;

use crate::cmdline::Module;
use crate::error::{Error, Result};
use crate::process::{POLL, Running, on_path, shown};
use crate::verdict::Verdict;

/// How long an emulator may take to end after the verdict has been printed.
const GRACE: Duration = Duration::from_secs(3);

/// Whose virtualization extensions the image sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cpu {
    /// SVM.
    Amd,
    /// VMX.
    Intel,
}

/// What runs the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum On {
    /// QEMU with its own translator: AMD only.
    Qemu,
    /// Bochs, booted from an ISO: Intel or AMD.
    Bochs,
    /// QEMU on a host whose KVM offers nested virtualization.
    Kvm,
}

/// How the image gets into QEMU's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Boot {
    /// QEMU loads it.
    #[default]
    Direct,
    /// From an ISO, by SeaBIOS and GRUB.
    Bios,
    /// From an ISO, by OVMF and GRUB.
    Uefi,
}

/// Everything about a run that an emulator has to know.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: Cpu,
    pub(crate) on: On,
    pub(crate) boot: Boot,
    pub(crate) icount: bool,
    /// Changes to QEMU's processor.
    pub(crate) cpu_flags: Option<String>,
    pub(crate) gdb: bool,
    /// What is typed here goes to the serial line.
    pub(crate) interactive: bool,
    /// What is typed into an interactive run by us; else standard input is.
    pub(crate) typed: Vec<Typed>,
    /// Without the image: the guest alone on the emulated machine.
    pub(crate) bare: bool,
    /// The run passes when this is printed, where no image watches for it.
    pub(crate) until: Option<String>,
    /// Memory of the whole machine, the image's own included.
    pub(crate) memory_mib: u32,
    /// The image, with its command line.
    pub(crate) image: Module,
    /// The guest, then its own modules.
    pub(crate) modules: Vec<Module>,
    /// The emulator is killed after this.
    pub(crate) limit: Duration,
    /// A folder for the run's own files.
    pub(crate) scratch: PathBuf,
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// The console's lines of JSON.
    pub(crate) json: Vec<Marked>,
    /// The console's text.
    pub(crate) text: String,
    pub(crate) elapsed: Duration,
}

/// Settles vendor and emulator from what was asked for; refuses what cannot work, with the
/// reason.
pub(crate) fn choose(cpu: Option<Cpu>, on: Option<On>) -> Result<(Cpu, On)> {
    match (cpu, on) {
        (None | Some(Cpu::Amd), None | Some(On::Qemu)) => Ok((Cpu::Amd, On::Qemu)),
        (Some(Cpu::Intel), Some(On::Qemu)) => Err(Error::refused(
            "--cpu intel --on qemu",
            "QEMU's translator has no VMX; --on bochs has it, and --on kvm where the host does",
        )),
        (None | Some(Cpu::Intel), Some(On::Bochs)) | (Some(Cpu::Intel), None) => {
            Ok((Cpu::Intel, On::Bochs))
        }
        (Some(Cpu::Amd), Some(On::Bochs)) => Ok((Cpu::Amd, On::Bochs)),
        (cpu, Some(On::Kvm)) => Ok((qemu::nested_kvm(cpu)?, On::Kvm)),
    }
}

/// Runs the image. `announce` gets the emulator's command line before it starts and `show` the
/// console's text as it comes.
pub(crate) fn run(
    machine: &Machine,
    announce: impl FnOnce(&str),
    show: impl FnMut(&[u8]),
) -> Result<Outcome> {
    fs::create_dir_all(&machine.scratch).map_err(Error::io(&machine.scratch))?;
    let session = match machine.on {
        On::Qemu | On::Kvm => qemu::prepare(machine)?,
        On::Bochs => bochs::prepare(machine)?,
    };
    let terms = Terms {
        limit: machine.limit,
        until: machine.until.as_deref(),
        bare: machine.bare,
        interactive: machine.interactive,
        typed: &machine.typed,
    };
    follow_session(session, terms, announce, show)
}

/// What an emulator's run is bound to.
#[derive(Clone, Copy)]
struct Terms<'a> {
    limit: Duration,
    /// The run passes when this is printed.
    until: Option<&'a str>,
    bare: bool,
    interactive: bool,
    typed: &'a [Typed],
}

fn follow_session(
    mut session: Session,
    terms: Terms<'_>,
    announce: impl FnOnce(&str),
    show: impl FnMut(&[u8]),
) -> Result<Outcome> {
    let started = Instant::now();
    announce(&shown(&session.command));
    let mut stdio = session.stdio()?;
    let _terminal = terms.interactive.then(Terminal::keep);
    let typist = if terms.typed.is_empty() { None } else { Some(Typist::new(terms.typed)?) };
    match &typist {
        Some(typist) => stdio[0] = typist.stdin()?,
        None if terms.interactive => stdio[0] = Stdio::inherit(),
        None => {}
    }
    let mut running = Running::start(&mut tied_to_us(&session.command, stdio))?;
    let listener = session.listen(&mut running)?;
    let (console, ended) = supervise(&mut running, listener, terms, typist, show)?;
    running.kill();
    let verdict = match (console.verdict(), ended) {
        (Some(verdict), _) => verdict.clone(),
        _ if console.has_printed(terms.until) => Verdict::Pass,
        (None, Some(status)) if terms.bare => qemu::verdict_of(status),
        (None, Some(status)) => Verdict::error(format!(
            "no verdict on the console; the emulator ended with {status}{}",
            session.complaint()
        )),
        (None, None) => {
            Verdict::Timeout { seconds: u32::try_from(terms.limit.as_secs()).unwrap_or(u32::MAX) }
        }
    };
    Ok(Outcome {
        verdict,
        json: console.json().to_vec(),
        text: console.text().to_owned(),
        elapsed: started.elapsed(),
    })
}

/// Our terminal, which an emulator sets to its needs and, when killed, leaves so.
struct Terminal(Option<Termios>);

impl Terminal {
    fn keep() -> Self {
        Self(tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // A terminal that has gone needs none.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, settings);
        }
    }
}

/// An emulator that runs no image of ours but prints a verdict all the same.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its console is standard output.
    pub(crate) command: Command,
    /// Where its complaints go.
    pub(crate) log: PathBuf,
    /// It is killed after this.
    pub(crate) limit: Duration,
}

/// Runs such an emulator to its end.
pub(crate) fn run_program(
    program: Program,
    announce: impl FnOnce(&str),
    show: impl FnMut(&[u8]),
) -> Result<Outcome> {
    let Program { command, log, limit } = program;
    let session = Session { command, source: Source::Output, log };
    let terms = Terms { limit, until: None, bare: false, interactive: false, typed: &[] };
    follow_session(session, terms, announce, show)
}

/// An emulator that is ready to start.
struct Session {
    command: Command,
    /// Where the console comes from.
    source: Source,
    /// Where the emulator reports on itself.
    log: PathBuf,
}

enum Source {
    /// The emulator's standard output.
    Output,
    /// A file that grows, while the emulator talks to a terminal of its own.
    File(PathBuf, pty::Terminal),
}

impl Session {
    /// Standard input, output and error of the emulator.
    fn stdio(&self) -> Result<[Stdio; 3]> {
        match &self.source {
            Source::Output => {
                let log = File::create(&self.log).map_err(Error::io(&self.log))?;
                Ok([Stdio::null(), Stdio::piped(), log.into()])
            }
            Source::File(_, terminal) => terminal.stdio(),
        }
    }

    /// Starts reading the console.
    fn listen(&mut self, running: &mut Running) -> Result<Listener> {
        match &mut self.source {
            Source::Output => {
                let pipe = running.child().stdout.take().ok_or_else(|| {
                    Error::malformed("the emulator's standard output", "it was not captured")
                })?;
                Ok(Listener::of_pipe(pipe))
            }
            Source::File(path, terminal) => {
                terminal.answer_debugger();
                Ok(Listener::of_file(path.clone()))
            }
        }
    }

    /// The last thing the emulator had to say about itself.
    fn complaint(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let (panics, rest): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains("PANIC"));
        let last = panics.last().or(rest.last());
        last.map_or_else(String::new, |line| format!("; its last word: {}", line.trim()))
    }
}

/// The same command, wrapped so that the kernel kills it when xtask dies.
fn tied_to_us(command: &Command, [stdin, stdout, stderr]: [Stdio; 3]) -> Command {
    let mut tied = if on_path("setpriv") {
        let mut wrapper = Command::new("setpriv");
        wrapper.args(["--pdeathsig", "KILL"]).arg(command.get_program());
        wrapper
    } else {
        Command::new(command.get_program())
    };
    tied.args(command.get_args());
    tied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    tied.stdin(stdin).stdout(stdout).stderr(stderr);
    tied
}

/// Follows a run to its end: the emulator ends (its status is returned), or it does not within
/// `GRACE` of a verdict, or within the limit.
fn supervise(
    running: &mut Running,
    listener: Listener,
    terms: Terms<'_>,
    mut typist: Option<Typist>,
    mut show: impl FnMut(&[u8]),
) -> Result<(Console, Option<ExitStatus>)> {
    let mut console = Console::default();
    let mut deadline = terms.limit;
    let mut ended = None;
    loop {
        match listener.pieces.recv_timeout(Duration::from_millis(20)) {
            Ok(piece) => {
                show(&console.feed(&piece));
                typist.iter_mut().try_for_each(|typist| typist.see(&piece))?;
            }
            Err(RecvTimeoutError::Disconnected) if ended.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = running.ended()?;
            if ended.is_some() {
                listener.stop();
            }
        }
        if console.verdict().is_some() || console.has_printed(terms.until) {
            deadline = deadline.min(running.elapsed() + GRACE);
        }
        if ended.is_none() && running.elapsed() > deadline {
            running.kill();
            listener.stop();
            break;
        }
    }
    for piece in listener.rest() {
        show(&console.feed(&piece));
    }
    show(&console.finish());
    Ok((console, ended))
}

/// A thread that reads the console.
struct Listener {
    pieces: Receiver<Vec<u8>>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Listener {
    fn of_pipe(mut pipe: impl Read + Send + 'static) -> Self {
        Self::spawn(move |pieces, _| while forward(&mut pipe, &pieces) {})
    }

    fn of_file(path: PathBuf) -> Self {
        Self::spawn(move |pieces, ending| follow(&path, &pieces, &ending))
    }

    fn spawn(body: impl FnOnce(Sender<Vec<u8>>, Arc<AtomicBool>) + Send + 'static) -> Self {
        let (sender, pieces) = channel();
        let ending = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ending);
        let thread = thread::spawn(move || body(sender, flag));
        Self { pieces, ending, thread }
    }

    /// Nothing more will be written.
    fn stop(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// What came after the last piece that was taken.
    fn rest(self) -> Vec<Vec<u8>> {
        self.stop();
        // A reader that panicked has sent what it had.
        let _ = self.thread.join();
        self.pieces.try_iter().collect()
    }
}

/// Passes one piece on; false at the end of the stream.
fn forward(source: &mut impl Read, pieces: &Sender<Vec<u8>>) -> bool {
    let mut piece = vec![0; 4096];
    match source.read(&mut piece) {
        Ok(length) if length > 0 => {
            piece.truncate(length);
            pieces.send(piece).is_ok()
        }
        _ => false,
    }
}

/// Follows a growing file until its writer has ended and everything has been read.
fn follow(path: &Path, pieces: &Sender<Vec<u8>>, ending: &AtomicBool) {
    let mut file = None;
    loop {
        // Asked before reading, so that what was written last is read once more afterwards.
        let last_round = ending.load(Ordering::Acquire);
        file = file.or_else(|| File::open(path).ok());
        if let Some(file) = &mut file {
            while forward(file, pieces) {}
        }
        if last_round {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Writes the console's text to standard output as it comes.
pub(crate) fn show_live(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away must not end the run.
    let _ = out.write_all(text).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests;
