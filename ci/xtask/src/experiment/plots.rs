//! Figures for a page or a paper: the same drawing as PNG and as SVG.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::error::{Error, Result};

/// A font that draws text into pictures (`ci/packages/fonts.txt`).
const FONT: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
/// The size that all lengths below are given for, and the scale of the PNG.
const PANEL: (u32, u32) = (560, 400);
const LEGEND: u32 = 40;
const PNG_SCALE: u32 = 2;

/// What one axis shows.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) title: &'static str,
    /// Positions with a label. On a logarithmic axis positions are given as they are.
    pub(super) marks: Vec<(f64, String)>,
    pub(super) logarithmic: bool,
    /// The least and the most that is shown.
    pub(super) range: (f64, f64),
}

impl Axis {
    /// A logarithmic axis around all of `values`, with a label for each decade.
    pub(super) fn decades(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = extremes(values.filter(|value| *value > 0.0));
        let (first, last) =
            (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
        #[expect(clippy::cast_possible_truncation, reason = "exponents of ten")]
        let decades = first as i32..=last as i32;
        let marks = decades.map(|decade| (10f64.powi(decade), power(decade))).collect();
        Self { title, marks, logarithmic: true, range: (10f64.powf(first), 10f64.powf(last)) }
    }

    /// A linear axis from 0 to above all of `values`, with about five labels.
    pub(super) fn from_zero(title: &'static str, values: impl Iterator<Item = f64>) -> Self {
        let (_, most) = extremes(values);
        let step = step(most / 5.0);
        let last = (most / step).ceil() * step;
        let mut marks = Vec::new();
        let mut at = 0.0;
        while at <= last * 1.001 {
            marks.push((at, number(at)));
            at += step;
        }
        Self { title, marks, logarithmic: false, range: (0.0, last * 1.02) }
    }

    /// An axis with a label at each of `names`, from 0 on.
    #[expect(clippy::cast_precision_loss, reason = "a handful of names")]
    pub(super) fn names(title: &'static str, names: &[String]) -> Self {
        let marks = names.iter().enumerate().map(|(at, name)| (at as f64, name.clone())).collect();
        Self { title, marks, logarithmic: false, range: (-0.5, names.len() as f64 - 0.5) }
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.max(1e-9).log10() } else { value }
    }

    fn label(&self, place: f64) -> String {
        let near = |mark: &&(f64, String)| (self.place(mark.0) - place).abs() < 1e-6;
        self.marks.iter().find(near).map_or_else(String::new, |(_, label)| label.clone())
    }

    /// As the drawing library wants it.
    fn scale(&self) -> Scale {
        Scale(self.clone())
    }
}

/// An axis as a coordinate: values come as [`Axis::place`] gives them.
#[derive(Clone, Debug)]
struct Scale(Axis);

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        let range = self.range();
        let share = (place - range.start) / (range.end - range.start);
        let pixels = share * f64::from(limit.1 - limit.0);
        #[expect(clippy::cast_possible_truncation, reason = "pixels")]
        let pixels = pixels.round() as i32;
        limit.0 + pixels
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.0.marks.iter().map(|(at, _)| self.0.place(*at)).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.place(self.0.range.0)..self.0.place(self.0.range.1)
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(place: &f64) -> String {
        place.to_string()
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if least.is_finite() { (least, most.max(least)) } else { (1.0, 10.0) }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(decade)
}

fn power(decade: i32) -> String {
    match decade {
        0..=2 => format!("{}", 10u32.pow(decade.unsigned_abs())),
        3..=5 => format!("{} k", 10u32.pow(decade.unsigned_abs() - 3)),
        6..=8 => format!("{} M", 10u32.pow(decade.unsigned_abs() - 6)),
        _ => format!("1e{decade}"),
    }
}

/// A number as a label: 1500 becomes 1.5 k.
pub(super) fn number(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    format!("{}{unit}", (scaled * 100.0).round() / 100.0)
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) colour: RGBColor,
    pub(super) dashed: bool,
    /// Drawn broad, below what may lie on it.
    pub(super) broad: bool,
    /// Corners of its marks: 0 for a disc, 3, 4, …
    pub(super) corners: u8,
}

impl Look {
    fn stroke(self, scale: u32) -> ShapeStyle {
        if self.broad {
            self.colour.mix(0.35).stroke_width(9 * scale)
        } else {
            self.colour.stroke_width(2 * scale)
        }
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) look: Look,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) marked: bool,
}

/// A bar at the `at`th name, from one height to another.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) at: f64,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) colour: RGBColor,
}

/// One chart.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    pub(super) bars: Vec<Bar>,
}

/// Charts side by side, with one legend.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) columns: usize,
    pub(super) panels: Vec<Panel>,
    pub(super) legend: Vec<(String, Look)>,
}

impl Figure {
    fn rows(&self) -> usize {
        self.panels.len().div_ceil(self.columns)
    }

    fn size(&self) -> (u32, u32) {
        let (columns, rows) = (self.columns as u32, self.rows() as u32);
        (PANEL.0 * columns, PANEL.1 * rows + LEGEND)
    }

    /// Writes `name.png` and `name.svg` into `folder`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<()> {
        load_font()?;
        let (width, height) = self.size();
        let png = folder.join(format!("{name}.png"));
        let size = (width * PNG_SCALE, height * PNG_SCALE);
        let area = BitMapBackend::new(&png, size).into_drawing_area();
        self.draw(&area, PNG_SCALE).map_err(|error| Error::malformed(&png, error))?;
        let svg = folder.join(format!("{name}.svg"));
        let area = SVGBackend::new(&svg, (width, height)).into_drawing_area();
        self.draw(&area, 1).map_err(|error| Error::malformed(&svg, error))
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Drawn<B> {
        area.fill(&WHITE)?;
        let (_, height) = area.dim_in_pixel();
        let (charts, legend) = area.split_vertically(height - LEGEND * scale);
        let cells = charts.split_evenly((self.rows(), self.columns));
        for (panel, cell) in self.panels.iter().zip(&cells) {
            panel.draw(cell, scale)?;
        }
        self.draw_legend(&legend, scale)?;
        area.present()
    }

    fn draw_legend<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Drawn<B> {
        let unit = scale as i32;
        let style = font(13, scale).pos(Pos::new(HPos::Left, VPos::Center));
        let middle = (LEGEND * scale / 2) as i32;
        let (total, _) = area.dim_in_pixel();
        let step = total as i32 / i32::try_from(self.legend.len().max(1)).unwrap_or(1);
        let mut x = 20 * unit;
        for (name, look) in &self.legend {
            let line = vec![(x, middle), (x + 24 * unit, middle)];
            area.draw(&PathElement::new(line, look.stroke(scale)))?;
            let polygon = Polygon::new(mark(*look, scale), look.colour.filled());
            area.draw(&(EmptyElement::at((x + 12 * unit, middle)) + polygon))?;
            area.draw(&Text::new(name.clone(), (x + 30 * unit, middle), style.clone()))?;
            x += step.min((44 + 9 * i32::try_from(name.chars().count()).unwrap_or(20)) * unit);
        }
        Ok(())
    }
}

type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

impl Panel {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> Drawn<B> {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, font(15, scale))
            .margin(8 * scale)
            .margin_right(20 * scale)
            .x_label_area_size(44 * scale)
            .y_label_area_size(64 * scale)
            .build_cartesian_2d(self.x.scale(), self.y.scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd).stroke_width(scale))
            .axis_style(RGBColor(0x55, 0x55, 0x55).stroke_width(scale))
            .label_style(font(12, scale))
            .axis_desc_style(font(13, scale))
            .x_labels(self.x.marks.len())
            .y_labels(self.y.marks.len())
            .x_label_formatter(&|place| self.x.label(*place))
            .y_label_formatter(&|place| self.y.label(*place))
            .x_desc(self.x.title)
            .y_desc(self.y.title)
            .draw()?;
        chart.draw_series(self.bars.iter().map(|bar| {
            let corners = [(bar.at - 0.36, bar.from), (bar.at + 0.36, bar.to)];
            Rectangle::new(corners, bar.colour.filled())
        }))?;
        for series in &self.series {
            let points: Vec<(f64, f64)> =
                series.points.iter().map(|(x, y)| (self.x.place(*x), self.y.place(*y))).collect();
            let style = series.look.stroke(scale);
            if series.look.dashed {
                let (dash, gap) = (6 * scale, 4 * scale);
                chart.draw_series(DashedLineSeries::new(
                    points.iter().copied(),
                    dash,
                    gap,
                    style,
                ))?;
            } else {
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            }
            if series.marked {
                let corners = mark(series.look, scale);
                let marks = points.into_iter().map(|point| {
                    EmptyElement::at(point)
                        + Polygon::new(corners.clone(), series.look.colour.filled())
                });
                chart.draw_series(marks)?;
            }
        }
        Ok(())
    }
}

/// The corners of a series' marks around their middle: a regular polygon; a disc is one of
/// many corners.
fn mark(look: Look, scale: u32) -> Vec<(i32, i32)> {
    let corners = if look.corners == 0 { 24 } else { look.corners };
    let turn = std::f64::consts::TAU / f64::from(corners);
    let radius = f64::from(scale) * if look.corners == 0 { 3.6 } else { 4.6 };
    let corner = |n: u8| {
        let angle = f64::from(n) * turn - std::f64::consts::FRAC_PI_2;
        #[expect(clippy::cast_possible_truncation, reason = "a few pixels")]
        let place = ((radius * angle.cos()).round() as i32, (radius * angle.sin()).round() as i32);
        place
    };
    (0..corners).map(corner).collect()
}

fn font(size: u32, scale: u32) -> TextStyle<'static> {
    ("sans-serif", size * scale).into_font().color(&RGBColor(0x22, 0x22, 0x22))
}

/// Makes the font known to the backend, once.
fn load_font() -> Result<()> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    if LOADED.get().is_some() {
        return Ok(());
    }
    let bytes = fs::read(FONT).map_err(Error::io(FONT))?;
    let known = register_font("sans-serif", FontStyle::Normal, bytes.leak()).is_ok();
    LOADED.get_or_init(|| known);
    if known { Ok(()) } else { Err(Error::malformed(FONT, "it is no font that can be read")) }
}
