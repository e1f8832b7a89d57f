//! `bench race`: the bundled benchmark on the bare machine, under us with nested and with shadow
//! paging, beside what KVM was recorded to take and what we want.

use std::path::Path;

use super::recorded::Recorded;
use super::results::{CREATE, Measured, Results, ZAP_ALL};
use super::{BENCH, Bench, append, plot, results, succeeded};
use crate::cli::BenchArgs;
use crate::cmdline::Mmu;
use crate::error::Result;
use crate::progress;
use crate::workspace::Workspace;

/// The argument of `bench` that means the race.
pub(super) const RACE: &str = "race";

/// A row of the table.
pub(super) struct Row {
    pub(super) label: &'static str,
    what: What,
    /// What ours must not exceed, and what we would like it to be.
    targets: Option<(f64, f64)>,
}

/// Where a row's figure comes from.
enum What {
    /// The benchmark's result of that name and shape.
    Result(&'static str, u64, u64),
    /// How much more a zap takes for each further table.
    Slope,
}

const fn row(
    label: &'static str,
    bench: &'static str,
    shape: (u64, u64),
    at_most: u32,
    aim: u32,
) -> Row {
    let what = What::Result(bench, shape.0, shape.1);
    Row { label, what, targets: Some((at_most as f64, aim as f64)) }
}

const fn untargeted(label: &'static str, bench: &'static str, shape: (u64, u64)) -> Row {
    Row { label, what: What::Result(bench, shape.0, shape.1), targets: None }
}

/// Every row of the race, with the targets of the project.
pub(super) const ROWS: [Row; 33] = [
    row("zap all, 64 tables", ZAP_ALL, (64, 1), 2_000, 400),
    row("zap all, 1,024 tables", ZAP_ALL, (1024, 1), 2_000, 400),
    row("zap all, 16,384 tables", ZAP_ALL, (16384, 1), 2_000, 400),
    row("zap all as the guest sees it, 16,384", "zap_guest", (16384, 1), 10_000, 5_000),
    Row { label: "zap all, for each further table", what: What::Slope, targets: Some((0.0, 0.0)) },
    row("rebuild, a table, 16,384 × 1 leaf", "rebuild", (16384, 1), 3_000, 1_500),
    row("rebuild, a page, 4,096 × 16 leaves", "rebuild", (4096, 16), 1_500, 700),
    row("rebuild, a page, 256 × 512 leaves", "rebuild", (256, 512), 500, 150),
    row("first touch: leaf", "touch_leaf", (1, 256), 1_500, 700),
    row("first touch: leaf, new PT", "touch_pt", (64, 1), 3_000, 1_500),
    row("first touch: leaf, new PD and PT", "touch_pd", (32, 1), 4_500, 2_200),
    row("exit: OUT, lightest", "out", (0, 0), 500, 200),
    row("exit: CPUID", "cpuid", (0, 0), 800, 350),
    row("exit: VMMCALL", "vmmcall", (0, 0), 600, 250),
    row("INVLPG", "invlpg", (0, 0), 900, 400),
    row("CR3 write, same root", "cr3_same", (0, 0), 900, 400),
    row("CR3 write, 16 roots, a touch each", "cr3_16", (0, 0), 1_000, 500),
    row("PTE write + CR3 reload, 1 leaf", "pte_cr3", (1, 1), 3_500, 1_500),
    row("PTE write + CR3 reload, 512 leaves", "pte_cr3", (1, 512), 20_000, 5_000),
    row("unmap: PTE = 0, INVLPG", "unmap", (1, 128), 1_300, 600),
    row("map and touch", "map_touch", (1, 128), 1_500, 700),
    row("PD entry swap, INVLPG, touch", "pde_swap", (2, 1), 4_000, 2_000),
    row("limit 64 pages, 2,048 tables, a touch", "limit_64", (2048, 1), 4_000, 2_000),
    row("limit 1,024 pages, 2,048, a touch", "limit_1024", (2048, 1), 4_000, 2_000),
    row("create to first guest instruction", CREATE, (0, 0), 100_000, 30_000),
    untargeted("exit: OUT, full path", "out_full", (0, 0)),
    untargeted("zap all, 4,096 tables", ZAP_ALL, (4096, 1)),
    untargeted("zap all, 4,096 × 16 leaves", ZAP_ALL, (4096, 16)),
    untargeted("zap all, 256 × 512 leaves", ZAP_ALL, (256, 512)),
    untargeted("rebuild, a table, 4,096 × 1 leaf", "rebuild", (4096, 1)),
    untargeted("fork storm, a fork of 4 × 64 pages", "fork", (4, 64)),
    untargeted("steady reader, 4,096 pages, a read", "reader", (256, 16)),
    untargeted("remap beside a toucher, a move", "remap", (1, 8)),
];

impl Row {
    /// The row's figure among these results.
    pub(super) fn figure(&self, measured: &[Measured]) -> Option<f64> {
        let find = |bench: &str, tables, leaves| {
            let fits = |one: &&Measured| {
                (one.bench.as_str(), one.tables, one.leaves) == (bench, tables, leaves)
            };
            measured.iter().find(fits).map(|one| one.median)
        };
        match self.what {
            What::Result(bench, tables, leaves) => find(bench, tables, leaves),
            What::Slope => {
                let (few, many) = (find(ZAP_ALL, 64, 1)?, find(ZAP_ALL, 16384, 1)?);
                Some(((many - few) / (16384.0 - 64.0) * 100.0).round() / 100.0)
            }
        }
    }

    fn mark(&self, ours: Option<f64>) -> &'static str {
        match (self.targets, ours) {
            (None, _) => "",
            (_, None) => "not measured",
            (Some((_, aim)), Some(ours)) if ours <= aim => "aim",
            (Some((at_most, _)), Some(ours)) if ours <= at_most => "ok",
            _ => "MISS",
        }
    }
}

/// All columns of the table.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) shadow: Vec<Measured>,
    pub(super) nested: Vec<Measured>,
    pub(super) bare: Vec<Measured>,
    pub(super) kvm: Recorded,
    pub(super) kvm_nested: Recorded,
}

/// Runs the race and prints its table.
pub(super) fn race(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    let json = args.json.as_ref().map(|file| from.join(file));
    let run = |mmu, bare| -> Result<Vec<Measured>> {
        let results = contestant(workspace, mmu, bare)?;
        if let Some(file) = &json {
            append(file, &results)?;
        }
        Ok(results.measured)
    };
    let columns = Columns {
        bare: run(Mmu::Nested, true)?,
        nested: run(Mmu::Nested, false)?,
        shadow: run(Mmu::Shadow, false)?,
        kvm: Recorded::kvm("shadow")?,
        kvm_nested: Recorded::kvm("nested")?,
    };
    print!("{}", table(&columns));
    for path in plot::draw(&columns)? {
        println!("plot: {}", path.display());
    }
    Ok(())
}

fn contestant(workspace: &Workspace, mmu: Mmu, bare: bool) -> Result<Results> {
    let name = if bare { "bare" } else { mmu.name() };
    let spinner = progress::spinner(format!("the benchmark, {name}"));
    let bench = Bench::bundled(BENCH, mmu, bare);
    let outcome = bench.run(workspace, Path::new(""), |_| ());
    spinner.finish_and_clear();
    let (outcome, common) = outcome?;
    succeeded(&outcome.verdict)?;
    results::parse(&outcome.text, &common)?;
    Ok(results::collect(&outcome.text, &outcome.json, &common))
}

/// The table for a reader.
fn table(columns: &Columns) -> String {
    let mut text = format!(
        "\nInstructions an operation, QEMU TCG with -icount; KVM: Linux {}, as recorded in ci/peer\n\
         {:<37} {:>9} {:>12} {:>8} {:>9} {:>9} {:>9} {:>7} {:>8}\n",
        columns.kvm.kernel, "", "ours", "KVM", "×", "at most", "aim", "nested", "bare", "KVM nst"
    );
    let mut counts = [0; 3];
    for row in &ROWS {
        let ours = row.figure(&columns.shadow);
        let mark = row.mark(ours);
        for (count, name) in counts.iter_mut().zip(["aim", "ok", "MISS"]) {
            *count += usize::from(mark == name);
        }
        text += &line(row, ours, mark, columns);
    }
    let [aim, ok, missed] = counts;
    let sum = format!("{aim} rows at the aim, {ok} more within `at most`, {missed} missed\n");
    text + &sum
}

fn line(row: &Row, ours: Option<f64>, mark: &str, columns: &Columns) -> String {
    let kvm = row.figure(&columns.kvm.measured);
    let ratio = match (ours, kvm) {
        (Some(ours), Some(kvm)) if ours > 0.0 => format!("{:.1}", kvm / ours),
        _ => "–".into(),
    };
    format!(
        "{:<37} {:>9} {:>12} {:>8} {:>9} {:>9} {:>9} {:>7} {:>8} {mark}\n",
        row.label,
        shown(ours),
        shown(kvm),
        ratio,
        shown(row.targets.map(|(at_most, _)| at_most)),
        shown(row.targets.map(|(_, aim)| aim)),
        shown(row.figure(&columns.nested)),
        shown(row.figure(&columns.bare)),
        shown(row.figure(&columns.kvm_nested.measured)),
    )
}

/// A figure in groups of three digits.
pub(super) fn shown(figure: Option<f64>) -> String {
    let Some(figure) = figure else { return "–".into() };
    let rounded = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (position, digit) in rounded.chars().enumerate() {
        if position > 0 && (rounded.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if figure <= -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::results::parse;
    use super::super::results::tests::common;
    use super::*;

    fn columns(shadow: &str) -> Columns {
        Columns { shadow: parse(shadow, &common()).unwrap(), ..Columns::default() }
    }

    fn line_of(text: &str, label: &str) -> String {
        text.lines().find(|line| line.starts_with(label)).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_row_says_whether_its_target_was_met() {
        let text = table(&columns("R invlpg 0 0 1 400\nR cpuid 0 0 1 800\nR out 0 0 1 501\n"));
        assert!(line_of(&text, "INVLPG").ends_with(" aim"), "{text}");
        assert!(line_of(&text, "exit: CPUID").ends_with(" ok"), "{text}");
        assert!(line_of(&text, "exit: OUT, lightest").ends_with(" MISS"), "{text}");
        assert!(line_of(&text, "exit: VMMCALL").ends_with(" not measured"), "{text}");
        assert!(text.ends_with("1 rows at the aim, 1 more within `at most`, 1 missed\n"), "{text}");
    }

    #[test]
    fn a_zap_that_grows_with_the_tables_misses_the_slope() {
        let flat = columns("R zap_all 64 1 1 400\nR zap_all 16384 1 1 400\n");
        assert!(line_of(&table(&flat), "zap all, for each").ends_with(" aim"));
        let steep = columns("R zap_all 64 1 1 400\nR zap_all 16384 1 1 20000\n");
        assert!(line_of(&table(&steep), "zap all, for each").ends_with(" MISS"));
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(shown(Some(325_676_582.0)), "325,676,582");
        assert_eq!(shown(Some(99.5)), "100");
        assert_eq!(shown(Some(-1234.0)), "-1,234");
        assert_eq!(shown(None), "–");
    }
}
