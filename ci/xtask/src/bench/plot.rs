//! The race as a picture: two charts with a logarithmic axis of instructions.
//!
//! They are drawn on plotters' SVG backend without its chart layer, which would need a font
//! file; the reader's program brings the letters.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::backend::SVGBackend;
use plotters::prelude::{BLACK, Color, DrawingBackend, IntoFont, RGBColor};
use plotters::style::TextStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::race::{Columns, ROWS, Row, shown};
use super::results::{Measured, ZAP_ALL};
use crate::error::{Error, Result};
use crate::workspace::OUT;

const OURS: RGBColor = RGBColor(0x1b, 0x7f, 0x5c);
const KVM: RGBColor = RGBColor(0xb8, 0x4a, 0x2e);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Powers of ten on the axis.
const DECADES: i32 = 9;
const WIDTH: i32 = 1000;
const LEFT: i32 = 320;
const RIGHT: i32 = 60;
const LINE: i32 = 26;
const TOP: i32 = 60;

/// Draws both charts below `out`; their paths.
pub(super) fn draw(columns: &Columns) -> Result<[PathBuf; 2]> {
    let folder = Path::new(OUT).join("race");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let zaps = zaps(&columns.shadow, &columns.kvm.measured);
    let rows: Vec<Bar> = ROWS
        .iter()
        .filter(|row| !row.label.starts_with("zap all"))
        .filter_map(|row| bar(row, columns))
        .collect();
    let title =
        format!("instructions, log scale: Anchorite (green), KVM {} (red)", columns.kvm.kernel);
    Ok([
        chart(&folder.join("zap.svg"), &format!("Zap all: {title}"), &zaps)?,
        chart(&folder.join("rows.svg"), &format!("Memory management: {title}"), &rows)?,
    ])
}

/// One line of a chart.
struct Bar {
    label: String,
    ours: Option<f64>,
    kvm: Option<f64>,
}

fn bar(row: &Row, columns: &Columns) -> Option<Bar> {
    let (ours, kvm) = (row.figure(&columns.shadow), row.figure(&columns.kvm.measured));
    ours.is_some().then(|| Bar { label: row.label.into(), ours, kvm })
}

/// Zap latency by the number of tables, one leaf in each.
fn zaps(ours: &[Measured], kvm: &[Measured]) -> Vec<Bar> {
    let one_leaf = |one: &&Measured| one.bench == ZAP_ALL && one.leaves == 1;
    let mut bars: Vec<(u64, Bar)> = Vec::new();
    for one in ours.iter().filter(one_leaf) {
        let theirs = kvm.iter().filter(one_leaf).find(|other| other.tables == one.tables);
        let label = format!("{} shadowed tables", one.tables);
        let bar = Bar { label, ours: Some(one.median), kvm: theirs.map(|other| other.median) };
        bars.push((one.tables, bar));
    }
    bars.sort_by_key(|(tables, _)| *tables);
    bars.into_iter().map(|(_, bar)| bar).collect()
}

fn chart(path: &Path, title: &str, bars: &[Bar]) -> Result<PathBuf> {
    let height = TOP + LINE * i32::try_from(bars.len()).unwrap_or(0) + 40;
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let mut canvas = Canvas(SVGBackend::new(path, size));
    let drawn = canvas.fill(height, title, bars);
    drawn.map_err(|what| Error::malformed(path, what))?;
    Ok(path.to_owned())
}

struct Canvas<'a>(SVGBackend<'a>);

type Drawn = std::result::Result<(), String>;

impl Canvas<'_> {
    fn fill(&mut self, height: i32, title: &str, bars: &[Bar]) -> Drawn {
        self.rectangle((0, 0), (WIDTH, height), RGBColor(255, 255, 255))?;
        self.text(title, (16, 22), HPos::Left)?;
        for decade in 0..=DECADES {
            let x = LEFT + decade * (WIDTH - LEFT - RIGHT) / DECADES;
            self.rectangle((x, TOP - 12), (x + 1, height - 16), GRID)?;
            self.text(&format!("10^{decade}"), (x, TOP - 20), HPos::Center)?;
        }
        for (index, bar) in (0..).zip(bars) {
            let y = TOP + index * LINE;
            self.text(&bar.label, (LEFT - 8, y + 9), HPos::Right)?;
            self.bar(bar.kvm, y, KVM)?;
            self.bar(bar.ours, y + 10, OURS)?;
        }
        self.0.present().map_err(|error| error.to_string())
    }

    fn bar(&mut self, value: Option<f64>, y: i32, colour: RGBColor) -> Drawn {
        let Some(value) = value else { return Ok(()) };
        let end = LEFT + length(value);
        self.rectangle((LEFT, y), (end, y + 9), colour)?;
        self.text(&shown(Some(value)), (end + 4, y + 4), HPos::Left)
    }

    fn rectangle(&mut self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Drawn {
        let colour = colour.to_backend_color();
        self.0.draw_rect(from, to, &colour, true).map_err(|error| error.to_string())
    }

    fn text(&mut self, text: &str, at: (i32, i32), anchor: HPos) -> Drawn {
        let style = TextStyle::from(("sans-serif", 11).into_font())
            .color(&BLACK)
            .pos(Pos::new(anchor, VPos::Center));
        self.0.draw_text(text, &style, at).map_err(|error| error.to_string())
    }
}

/// Pixels of a bar: its logarithm's share of the axis.
fn length(value: f64) -> i32 {
    let share = value.max(1.0).log10() / f64::from(DECADES);
    (share.min(1.0) * f64::from(WIDTH - LEFT - RIGHT)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::super::results::parse;
    use super::super::results::tests::common;
    use super::*;

    #[test]
    fn a_bar_grows_by_the_same_for_each_power_of_ten() {
        let step = length(100.0) - length(10.0);
        assert!((length(1e6) - length(1e5) - step).abs() <= 1);
        assert_eq!((length(0.0), length(1e12)), (0, WIDTH - LEFT - RIGHT));
    }

    #[test]
    fn zaps_are_drawn_in_order_beside_the_others_of_the_same_size() {
        let of = |text| parse(text, &common()).unwrap();
        let ours = of("R zap_all 1024 1 1 5\nR zap_all 64 1 1 4\nR zap_all 64 16 1 9\n");
        let bars = zaps(&ours, &of("R zap_all 64 1 1 1000\n"));
        let drawn: Vec<_> = bars.iter().map(|bar| (bar.ours, bar.kvm)).collect();
        assert_eq!(drawn, [(Some(4.0), Some(1000.0)), (Some(5.0), None)]);
    }
}
