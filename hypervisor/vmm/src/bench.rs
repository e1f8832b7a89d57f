//! The host's side of a benchmark guest: what its commands make the machine do and note.
//!
//! A guest says where a section begins and ends, outside the window that it times
//! itself; there the counters are compared. A zap that it wants timed is taken from
//! the decoded exit to the next entry. What was noted goes to the console as lines of
//! JSON at the next command that lies outside a window, so that no figure holds the
//! cost of telling it.

use crate::action::Stop;
use crate::counters::Kind;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use alloc::string::String;
use alloc::vec::Vec;
use anchorite_abi::bench::Command;
use anchorite_vcpu::Vcpu;
use core::fmt::Write;

/// What a line for the tools starts with.
pub const JSON_PREFIX: &str = "json: ";

/// Zaps kept until the next line; what exceeds them is counted.
const ZAPS: usize = 1024;
/// Zaps a line.
const ZAPS_A_LINE: usize = 64;

/// A counter's name and its value.
type Counter = (&'static str, u64);

/// What a benchmark guest's commands have led to.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    /// Whether the tools want to be told.
    pub(crate) told: bool,
    /// All sections are done: the value that ends the run says nothing any more.
    pub(crate) done: bool,
    /// The console stands in the middle of a line of the guest's.
    pub(crate) mid_line: bool,
    /// Ticks to make the machine, loading aside.
    pub(crate) creation: u64,
    /// Whether the guest's first command has been seen.
    booted: bool,
    section: Option<Section>,
    /// Ticks of all timed zaps when one was last noted.
    noted: u64,
    zap_pending: bool,
    zaps: Vec<Zap>,
    /// Zaps beyond [`ZAPS`].
    left_out: u64,
}

/// A section that has begun.
#[derive(Debug)]
struct Section {
    id: u32,
    /// Shadow pages in service.
    pages: u32,
    counters: Vec<Counter>,
}

#[derive(Clone, Copy, Debug)]
struct Zap {
    ticks: u64,
    /// Shadow pages that it made stale, as far as known.
    pages: u32,
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Accounts `ticks` that went into making this machine before it runs.
    pub const fn account_creation(&mut self, ticks: u64) {
        self.bench.creation += ticks;
    }

    /// Whether lines of JSON about sections and timed zaps are written.
    pub fn tell_benchmarks(&mut self, told: bool) {
        self.bench.told = told;
        if told {
            self.bench.zaps.reserve_exact(ZAPS);
        }
    }

    pub(crate) fn bench(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::ZapAll { timed } => self.zap_by_guest(timed),
            Command::Limit(pages) => self.translation.limit(pages),
            Command::Panic(code) => return Err(Stop::Panic { code }),
            Command::Sample => self.sample(),
            Command::Boot => self.booted(),
            Command::Begin(id) => self.begin(id),
            Command::End(id) => self.end(id),
            Command::Done => {
                self.bench.done = true;
                self.tell_zaps();
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn zap_by_guest(&mut self, timed: bool) {
        self.translation.zap_all();
        if self.bench.zap_pending {
            self.note_zap();
        }
        if timed {
            self.kind = Kind::ZAP_ALL;
            self.bench.zap_pending = true;
        }
    }

    /// The last timed zap's exit has been accounted by now: every command comes after
    /// the entry that followed it.
    #[cold]
    fn note_zap(&mut self) {
        let all = self.counters.zap_all().ticks;
        let ticks = all.wrapping_sub(self.bench.noted);
        self.bench.noted = all;
        self.bench.zap_pending = false;
        let pages = self.bench.section.as_ref().map_or(0, |section| section.pages);
        if self.bench.zaps.len() < self.bench.zaps.capacity() {
            self.bench.zaps.push(Zap { ticks, pages });
        } else {
            self.bench.left_out += 1;
        }
    }

    fn booted(&mut self) {
        let first = !core::mem::replace(&mut self.bench.booted, true);
        if first && self.bench.told {
            let ticks = self.bench.creation + self.left.wrapping_sub(self.started);
            let mut line = String::new();
            let _ = write!(line, "{{\"schema\":1,\"record\":\"bench_create\",\"ticks\":{ticks}}}");
            self.tell(&line);
        }
    }

    fn begin(&mut self, id: u32) {
        self.tell_zaps();
        if self.bench.told {
            let pages = self.translation.shadow_pages();
            self.bench.section = Some(Section { id, pages, counters: self.all_counters() });
        }
    }

    fn end(&mut self, id: u32) {
        self.tell_zaps();
        let section = self.bench.section.take().filter(|section| section.id == id);
        let Some(Section { pages, counters, .. }) = section else { return };
        let mut line = String::new();
        let _ = write!(
            line,
            "{{\"schema\":1,\"record\":\"bench_section\",\"section\":{id},\"pages\":{pages}"
        );
        for ((name, before), (_, after)) in counters.iter().zip(self.all_counters()) {
            // A gauge may have fallen.
            let _ = write!(line, ",\"{name}\":{}", after.wrapping_sub(*before) as i64);
        }
        line.push('}');
        self.tell(&line);
    }

    /// The machine's counters, then the translation's.
    pub(crate) fn all_counters(&self) -> Vec<Counter> {
        let mut all: Vec<Counter> = self.counters.kvm_names().into();
        all.extend(self.translation.counters());
        all
    }

    /// Writes what is known of timed zaps.
    pub(crate) fn tell_zaps(&mut self) {
        if self.bench.zap_pending {
            self.note_zap();
        }
        let zaps = core::mem::take(&mut self.bench.zaps);
        for some in zaps.chunks(ZAPS_A_LINE) {
            let mut line = String::new();
            let pages = some[0].pages;
            let left_out = core::mem::take(&mut self.bench.left_out);
            let _ = write!(
                line,
                "{{\"schema\":1,\"record\":\"bench_zap\",\"pages\":{pages},\"left_out\":{left_out},\"ticks\":["
            );
            for (position, zap) in some.iter().enumerate() {
                let comma = if position == 0 { "" } else { "," };
                let _ = write!(line, "{comma}{}", zap.ticks);
            }
            line.push_str("]}");
            self.tell(&line);
        }
        self.bench.zaps = zaps;
        self.bench.zaps.clear();
    }

    /// Writes a line for the tools, where the console is at the start of one.
    fn tell(&mut self, line: &str) {
        if core::mem::take(&mut self.bench.mid_line) {
            self.host.console_write(b"\n");
        }
        self.host.console_write(JSON_PREFIX.as_bytes());
        self.host.console_write(line.as_bytes());
        self.host.console_write(b"\n");
    }
}
