//! What a vCPU's exits were and what they cost.

use alloc::vec::Vec;
use anchorite_vcpu::ExitReason;
use core::fmt;

/// What the exits of one kind cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How many.
    pub count: u64,
    /// TSC ticks from leaving the guest to entering it again, all together. Under an
    /// emulator that counts instructions a tick is an instruction.
    pub ticks: u64,
    /// The dearest.
    pub longest: u64,
}

/// A kind of exit: an [`ExitReason`], or one of those told apart from theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

const REASONS: usize = ExitReason::ALL.len();
/// A power of two, so that an index is in bounds without a comparison.
const KINDS: usize = (REASONS + 2).next_power_of_two();

impl Kind {
    /// The entry after the guest was started, which no exit came before.
    pub(crate) const START: Self = Self(REASONS as u8);
    /// A write to the benchmark port that zapped all shadow pages and is timed.
    pub(crate) const ZAP_ALL: Self = Self(REASONS as u8 + 1);

    #[inline]
    pub(crate) const fn of(reason: ExitReason) -> Self {
        Self(reason as u8)
    }
}

/// The counters of one vCPU.
#[derive(Clone, Debug)]
pub struct Counters {
    kinds: [Cost; KINDS],
    /// Ticks in the guest.
    pub guest_ticks: u64,
    /// Ticks slept while the guest was halted; part of no exit's cost.
    pub idle_ticks: u64,
    /// Instructions carried out for the guest, other than those that always exit.
    pub emulated: u64,
    /// Accesses to guest-physical addresses without memory.
    pub mmio: u64,
    /// … of these: to addresses without a device.
    pub mmio_unclaimed: u64,
    /// External interrupts injected.
    pub interrupts: u64,
    /// NMIs injected.
    pub nmis: u64,
    /// Exceptions injected.
    pub exceptions: u64,
    /// Events injected again after an exit interrupted their delivery.
    pub reinjected: u64,
    /// Pages with tables given to the guest to write to, because nobody could in its place.
    pub unprotected: u64,
    /// Zap-alls because of CR0.CD and MTRRs.
    pub memory_types: u64,
    /// Zap-alls that the clock asked for.
    pub timed_zaps: u64,
    /// TLB flushes requested from the backend.
    pub tlb_flushes: u64,
    /// Instruction lengths that took a walk of the guest's tables.
    pub fetch_walks: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            kinds: [Cost::default(); KINDS],
            guest_ticks: 0,
            idle_ticks: 0,
            emulated: 0,
            mmio: 0,
            mmio_unclaimed: 0,
            interrupts: 0,
            nmis: 0,
            exceptions: 0,
            reinjected: 0,
            unprotected: 0,
            memory_types: 0,
            timed_zaps: 0,
            tlb_flushes: 0,
            fetch_walks: 0,
        }
    }
}

impl Counters {
    /// Accounts a round trip of one kind.
    #[inline]
    pub(crate) fn record(&mut self, kind: Kind, ticks: u64) {
        let cost = &mut self.kinds[kind.0 as usize % KINDS];
        cost.count += 1;
        cost.ticks = cost.ticks.wrapping_add(ticks);
        cost.longest = cost.longest.max(ticks);
    }

    /// The cost of one kind of exit.
    pub fn cost(&self, reason: ExitReason) -> Cost {
        self.kinds[reason as usize]
    }

    /// Ticks from the start of the run to the first entry.
    pub(crate) const fn until_first_entry(&self) -> u64 {
        self.kinds[Kind::START.0 as usize].ticks
    }

    /// The timed benchmark commands that zap all shadow pages, from exit to entry.
    pub fn zap_all(&self) -> Cost {
        self.kinds[Kind::ZAP_ALL.0 as usize]
    }

    /// Every kind of exit that happened, with its name.
    pub fn costs(&self) -> impl Iterator<Item = (&'static str, Cost)> + '_ {
        let names = ExitReason::ALL.iter().map(|reason| reason.name());
        let all = names.chain(["start", "bench_zap_all"]).zip(self.kinds);
        all.filter(|(name, cost)| cost.count != 0 && *name != "start")
    }

    /// All exits.
    pub fn exits(&self) -> u64 {
        self.costs().map(|(_, cost)| cost.count).sum()
    }

    /// The ticks of all exits.
    pub fn exit_ticks(&self) -> u64 {
        self.costs().fold(0, |sum, (_, cost)| sum.wrapping_add(cost.ticks))
    }

    /// Counters by the names that `kvm_stat` uses.
    pub fn kvm_names(&self) -> [(&'static str, u64); 21] {
        let count = |reason| self.cost(reason).count;
        [
            ("exits", self.exits()),
            ("io_exits", count(ExitReason::IoIn) + count(ExitReason::IoOut)),
            ("mmio_exits", self.mmio),
            ("irq_exits", count(ExitReason::HostInterrupt)),
            ("nmi_window_exits", count(ExitReason::NmiWindow)),
            ("irq_window_exits", count(ExitReason::InterruptWindow)),
            ("halt_exits", count(ExitReason::Halt)),
            ("hypercalls", count(ExitReason::Hypercall)),
            ("invlpg", count(ExitReason::Invlpg)),
            ("insn_emulation", self.emulated),
            ("irq_injections", self.interrupts),
            ("nmi_injections", self.nmis),
            ("exception_injections", self.exceptions),
            ("req_event", self.reinjected),
            ("tlb_flush", self.tlb_flushes),
            ("mmu_unprotected", self.unprotected),
            ("mtrr_zaps", self.memory_types),
            ("timed_zaps", self.timed_zaps),
            ("guest_ticks", self.guest_ticks),
            ("host_ticks", self.exit_ticks()),
            ("idle_ticks", self.idle_ticks),
        ]
    }

    /// The table for a reader.
    pub fn write_table(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let (total, ticks) = (self.exits(), self.exit_ticks());
        writeln!(
            out,
            "{:<26}{:>12}{:>16}{:>10}{:>12}",
            "exit", "count", "ticks", "mean", "longest"
        )?;
        for (name, Cost { count, ticks, longest }) in self.costs() {
            let mean = ticks / count;
            writeln!(out, "{name:<26}{count:>12}{ticks:>16}{mean:>10}{longest:>12}")?;
        }
        let mean = ticks.checked_div(total).unwrap_or(0);
        writeln!(out, "{:<26}{total:>12}{ticks:>16}{mean:>10}", "all")?;
        if self.timed_zaps != 0 {
            writeln!(out, "zap-alls by the clock: {}", self.timed_zaps)?;
        }
        Ok(())
    }

    /// The counters of a translation for a reader: those that counted anything, four a line.
    pub fn write_translation(counters: &[(&str, u64)], out: &mut impl fmt::Write) -> fmt::Result {
        let counted: Vec<_> = counters.iter().filter(|(_, value)| *value != 0).collect();
        for line in counted.chunks(4) {
            for (position, (name, value)) in line.iter().enumerate() {
                let separator = if position == 0 { "" } else { "  " };
                write!(out, "{separator}{name} {value}")?;
            }
            out.write_char('\n')?;
        }
        Ok(())
    }

    /// The same as one JSON object without a line end, with the counters of the
    /// `translation`.
    pub fn write_json(
        &self,
        vcpu: u16,
        translation: &[(&str, u64)],
        out: &mut impl fmt::Write,
    ) -> fmt::Result {
        write!(out, "{{\"schema\":1,\"record\":\"counters\",\"vcpu\":{vcpu}")?;
        for (name, value) in self.kvm_names().iter().chain(translation) {
            write!(out, ",\"{name}\":{value}")?;
        }
        out.write_str(",\"reasons\":{")?;
        for (position, (name, Cost { count, ticks, longest })) in self.costs().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(out, "{comma}\"{name}\":{{\"count\":{count},\"ticks\":{ticks}")?;
            write!(out, ",\"longest\":{longest}}}")?;
        }
        out.write_str("}}")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;

    fn sample() -> Counters {
        let mut counters = Counters::default();
        counters.record(Kind::START, 1_000_000);
        for ticks in [100, 300, 200] {
            counters.record(Kind::of(ExitReason::Cpuid), ticks);
        }
        counters.record(Kind::of(ExitReason::IoOut), 50);
        counters.record(Kind::ZAP_ALL, 400);
        counters
    }

    #[test]
    fn costs_add_up_by_kind_and_the_start_belongs_to_none() {
        let counters = sample();
        let expected = Cost { count: 3, ticks: 600, longest: 300 };
        assert_eq!(counters.cost(ExitReason::Cpuid), expected);
        assert_eq!(counters.zap_all(), Cost { count: 1, ticks: 400, longest: 400 });
        assert_eq!((counters.exits(), counters.exit_ticks()), (5, 1_050));
    }

    #[test]
    fn the_table_names_what_happened_and_nothing_else() {
        let mut table = String::new();
        sample().write_table(&mut table).unwrap();
        let names: std::vec::Vec<_> =
            table.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["exit", "cpuid", "io_out", "bench_zap_all", "all"]);
        let cpuid = table.lines().nth(1).unwrap().split_whitespace().collect::<std::vec::Vec<_>>();
        assert_eq!(cpuid, ["cpuid", "3", "600", "200", "300"]);
    }

    #[test]
    fn the_json_line_is_one_object_with_the_names_of_kvm_stat() {
        let mut json = String::new();
        sample().write_json(0, &[("pf_fixed", 7)], &mut json).unwrap();
        assert!(!json.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["exits"], 5);
        assert_eq!(value["io_exits"], 1);
        assert_eq!(value["pf_fixed"], 7);
        assert_eq!(value["reasons"]["cpuid"]["ticks"], 600);
        assert_eq!(value["reasons"].as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_translations_counters_that_never_counted_are_left_out() {
        let counters = [("a", 1), ("b", 0), ("c", 2), ("d", 3), ("e", 4), ("f", 5)];
        let mut text = String::new();
        Counters::write_translation(&counters, &mut text).unwrap();
        assert_eq!(text, "a 1  c 2  d 3  e 4\nf 5\n");
    }

    #[test]
    fn counters_of_a_machine_that_never_ran_print_as_well() {
        let (mut table, mut json) = (String::new(), String::new());
        Counters::default().write_table(&mut table).unwrap();
        Counters::default().write_json(3, &[], &mut json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["exits"], &value["vcpu"]), (&0.into(), &3.into()));
    }
}
