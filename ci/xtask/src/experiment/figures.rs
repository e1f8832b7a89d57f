//! The figures of the report, made from records.

use plotters::style::RGBColor;

use super::cell::{Cell, Part, Policy};
use super::plots::{Axis, Bar, Figure, Look, Panel, Series};
use super::record::{Record, SHARES};

/// The colours of Okabe and Ito ("Color Universal Design", 2008), told apart by everyone.
const BLACK: RGBColor = RGBColor(0, 0, 0);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const SKY: RGBColor = RGBColor(86, 180, 233);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PURPLE: RGBColor = RGBColor(204, 121, 167);

/// The parts of a recycle, as [`Record::split`] has them after the number of pages.
const SPLIT: [(&str, RGBColor); 4] =
    [("lists", BLACK), ("directory", SKY), ("unlinking", VERMILION), ("clearing", GREEN)];

/// Every figure with the name of its file.
pub(super) fn all(records: &[&Record]) -> Vec<(&'static str, Figure)> {
    let figures = [
        ("zap-latency", zap_latency(records)),
        ("fault-latency", fault_latency(records)),
        ("frames", frames(records)),
        ("recycle", recycle(records)),
    ];
    figures.into_iter().filter(|(_, figure)| !figure.panels.is_empty()).collect()
}

fn look(policy: Policy) -> Look {
    let (colour, corners) = match policy {
        Policy::Walk => (BLACK, 4),
        Policy::Batch(_) => (ORANGE, 3),
        Policy::Quota => (VERMILION, 5),
        Policy::Reuse => (BLUE, 0),
        Policy::Background => (PURPLE, 6),
        Policy::Tagged => (GREEN, 4),
    };
    let dashed = match policy {
        Policy::Batch(size) => size != 10,
        Policy::Quota => true,
        _ => false,
    };
    // Each lies under another that it often cannot be told from.
    let broad = matches!(policy, Policy::Walk | Policy::Background);
    Look { colour, dashed, broad, corners }
}

/// The policies that occur, in their order.
fn policies(records: &[&Record]) -> Vec<Policy> {
    let mut found: Vec<Policy> = records.iter().filter_map(|record| record.policy()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn legend(records: &[&Record]) -> Vec<(String, Look)> {
    policies(records).into_iter().map(|policy| (policy.to_string(), look(policy))).collect()
}

fn of_part<'a>(records: &[&'a Record], part: Part) -> Vec<&'a Record> {
    records.iter().copied().filter(|record| record.cell.part == part).collect()
}

/// The cells that occur, in their order.
pub(super) fn cells<'a>(records: &[&'a Record]) -> Vec<&'a Cell> {
    let mut found: Vec<&Cell> = Vec::new();
    for record in records {
        if !found.contains(&&record.cell) {
            found.push(&record.cell);
        }
    }
    found
}

/// A line for each policy through what `point` makes of its records.
fn lines(
    records: &[&Record],
    marked: bool,
    points: impl Fn(&[&Record]) -> Vec<(f64, f64)>,
) -> Vec<Series> {
    let line = |policy: Policy| {
        let own: Vec<&Record> =
            records.iter().copied().filter(|record| record.policy() == Some(policy)).collect();
        Series { look: look(policy), points: points(&own), marked }
    };
    let lines = policies(records).into_iter().map(line).filter(|line| !line.points.is_empty());
    let mut lines: Vec<Series> = lines.collect();
    lines.sort_by_key(|line| !line.look.broad);
    lines
}

fn heights(series: &[Series]) -> impl Iterator<Item = f64> + '_ {
    series.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y))
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 instructions")]
fn float(value: u64) -> f64 {
    value as f64
}

/// The median over records of one figure.
pub(super) fn median(records: &[&Record], of: impl Fn(&Record) -> u64) -> u64 {
    let mut values: Vec<u64> = records.iter().map(|record| of(record)).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// One point for each number of tables.
fn by_tables(records: &[&Record], of: impl Fn(&Record) -> u64 + Copy) -> Vec<(f64, f64)> {
    let points = cells(records).into_iter().map(|cell| {
        let own: Vec<&Record> =
            records.iter().copied().filter(|record| record.cell == *cell).collect();
        (float(cell.tables), float(median(&own, of)))
    });
    points.filter(|(_, y)| *y > 0.0).collect()
}

/// Zap latency against the number of live tables, as the host and as the guest see it.
fn zap_latency(records: &[&Record]) -> Figure {
    let records = of_part(records, Part::Live);
    let panel = |title: &str, of: fn(&Record) -> u64| {
        let series = lines(&records, true, |own| by_tables(own, of));
        let marks: Vec<(f64, String)> = cells(&records)
            .iter()
            .filter(|cell| cell.name != "quota")
            .map(|cell| (float(cell.tables), cell.tables.to_string()))
            .collect();
        let tables = cells(&records).iter().map(|cell| float(cell.tables)).collect::<Vec<_>>();
        let range = (
            tables.iter().copied().fold(f64::INFINITY, f64::min) / 1.3,
            tables.iter().copied().fold(1.0, f64::max) * 1.3,
        );
        Panel {
            title: title.into(),
            x: Axis { title: "live page tables", marks, logarithmic: true, range },
            y: Axis::decades("instructions", heights(&series)),
            series,
            bars: Vec::new(),
        }
    };
    let panels = if records.is_empty() {
        Vec::new()
    } else {
        vec![
            panel("zap-all: decoded exit to entry", |record| record.zap_host[1]),
            panel("zap-all: as the guest sees it", |record| record.zap_guest[1]),
        ]
    };
    Figure { columns: 2, panels, legend: legend(&records) }
}

/// Percentiles of the faults after a zap, a chart for each workload of the verdict.
fn fault_latency(records: &[&Record]) -> Figure {
    let records = of_part(records, Part::Verdict);
    let names: Vec<String> = SHARES
        .iter()
        .map(|share| match share {
            share if *share >= 1.0 => "max".to_owned(),
            share => format!("{}", (share * 1000.0).round() / 10.0),
        })
        .collect();
    let panels = cells(&records).into_iter().map(|cell| {
        let own: Vec<&Record> =
            records.iter().copied().filter(|record| record.cell == *cell).collect();
        let series = lines(&own, true, |own| {
            let at = |n: usize| (float(n as u64), float(median(own, |record| record.quantiles[n])));
            (0..SHARES.len()).map(at).collect()
        });
        Panel {
            title: cell.name.clone(),
            x: Axis::names("percentile of faults after a zap", &names),
            y: fault_axis(&series),
            series,
            bars: Vec::new(),
        }
    });
    Figure { columns: 2, panels: panels.collect(), legend: legend(&records) }
}

/// A logarithmic axis with labels at 1, 2 and 5 of each decade: faults differ by less than
/// decades.
fn fault_axis(series: &[Series]) -> Axis {
    let (least, most) = heights(series)
        .fold((f64::INFINITY, 1.0_f64), |(least, most), y| (least.min(y), most.max(y)));
    let decades =
        (2..9).flat_map(|decade| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(decade)));
    let below = decades.clone().rfind(|mark| *mark <= least).unwrap_or(100.0);
    let above = decades.clone().find(|mark| *mark >= most).unwrap_or(1e9);
    let marks = decades
        .filter(|mark| (below..=above).contains(mark))
        .map(|mark| (mark, super::plots::number(mark)))
        .collect();
    Axis { title: "instructions", marks, logarithmic: true, range: (below, above) }
}

/// Frames in use over the run's time.
fn frames(records: &[&Record]) -> Figure {
    let records = of_part(records, Part::Frames);
    let panels = cells(&records).into_iter().map(|cell| {
        let own: Vec<&Record> =
            records.iter().copied().filter(|record| record.cell == *cell).collect();
        let series = lines(&own, false, |own| {
            let Some(record) = own.first() else { return Vec::new() };
            let first = record.frames.first().map_or(0, |sample| sample[0]);
            let samples = record.frames.iter();
            samples
                .map(|[tick, active, stale, limbo, _]| {
                    (float(tick - first) / 1e6, float(active + stale + limbo))
                })
                .collect()
        });
        let ticks = series.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
        Panel {
            title: format!(
                "{} quota: {} pages for {} live tables",
                cell.name, cell.quota, cell.tables
            ),
            x: Axis::from_zero("million instructions since the first touch", ticks),
            y: Axis::from_zero("shadow pages in use", heights(&series)),
            series,
            bars: Vec::new(),
        }
    });
    let panels: Vec<Panel> =
        panels.filter(|panel| panel.series.iter().any(|line| line.points.len() > 1)).collect();
    Figure { columns: 2, panels, legend: legend(&records) }
}

/// Where the instructions of a recycle go.
fn recycle(records: &[&Record]) -> Figure {
    let records: Vec<&Record> =
        of_part(records, Part::Split).into_iter().filter(|record| record.split.is_some()).collect();
    let panels = cells(&records).into_iter().map(|cell| {
        let own: Vec<&Record> =
            records.iter().copied().filter(|record| record.cell == *cell).collect();
        let bars: Vec<Bar> = own
            .iter()
            .enumerate()
            .flat_map(|(at, record)| stack(float(at as u64), record))
            .collect();
        let names: Vec<String> = own.iter().map(|record| record.policy.clone()).collect();
        Panel {
            title: format!("{} present leaves in each table", cell.leaves),
            x: Axis::names("", &names),
            y: Axis::from_zero("instructions for a recycled page", bars.iter().map(|bar| bar.to)),
            series: Vec::new(),
            bars,
        }
    });
    let legend = SPLIT.map(|(name, colour)| {
        (name.to_owned(), Look { colour, dashed: false, broad: false, corners: 4 })
    });
    Figure { columns: 2, panels: panels.collect(), legend: legend.to_vec() }
}

/// Instructions of each part for one recycled page.
pub(super) fn split_of(record: &Record) -> Option<[f64; 4]> {
    let [pages, parts @ ..] = record.split?;
    Some(parts.map(|part| float(part) / float(pages)))
}

fn stack(at: f64, record: &Record) -> Vec<Bar> {
    let mut from = 0.0;
    let parts = split_of(record).unwrap_or_default();
    parts
        .iter()
        .zip(SPLIT)
        .map(|(part, (_, colour))| {
            let bar = Bar { at, from, to: from + part, colour };
            from = bar.to;
            bar
        })
        .collect()
}
