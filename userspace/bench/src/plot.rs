//! The figures as pictures: SVG, to stand in the page as it is.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::schema::{Case, Outcome};

const WIDTH: i32 = 860;
const BAR: i32 = 22;
const NAMES: i32 = 330;
const FIGURES: i32 = 110;
/// Panels beside each other, and how high they are.
const COLUMNS: usize = 2;
const PANEL_HEIGHT: u32 = 380;
const COLORS: [RGBColor; 8] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// A bar for each figure of a case, with a line for its spread. `None` if there are no figures.
pub fn bars(case: &Case) -> anyhow::Result<Option<String>> {
    let measured: Vec<_> =
        case.results.iter().filter_map(|result| Some((result.key(), result.measured.as_ref()?))).collect();
    let most = measured.iter().map(|(_, spread)| spread.max).fold(0.0, f64::max);
    if measured.is_empty() || most <= 0.0 {
        return Ok(None);
    }
    let mut svg = String::new();
    let height = measured.len() as i32 * BAR + 10;
    let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
    let text = TextStyle::from(("sans-serif", 13).into_font());
    let place = |value: f64| NAMES + (value / most * f64::from(WIDTH - NAMES - FIGURES)) as i32;
    for (index, (name, spread)) in measured.iter().enumerate() {
        let top = index as i32 * BAR + 5;
        let (middle, bottom) = (top + BAR / 2 - 2, top + BAR - 5);
        root.draw(&Text::new(name.clone(), (4, top + 1), text.clone())).context("draw a name")?;
        let bar = Rectangle::new([(NAMES, top), (place(spread.median), bottom)], COLORS[0].mix(0.6).filled());
        root.draw(&bar).context("draw a bar")?;
        let range = PathElement::new(vec![(place(spread.min), middle), (place(spread.max), middle)], BLACK);
        root.draw(&range).context("draw a range")?;
        let figure = Text::new(case.unit.show(spread.median), (place(spread.max) + 6, top + 1), text.clone());
        root.draw(&figure).context("draw a figure")?;
    }
    root.present().context("finish the picture")?;
    drop(root);
    Ok(Some(svg))
}

/// Round-trip times by percentile: a panel for each rate of the injector, all on the same axes, with a line for each
/// subject. `None` if no result has them.
pub fn curves(case: &Case) -> anyhow::Result<Option<String>> {
    let with_curve: Vec<&Outcome> = case.results.iter().filter(|result| !result.curve.is_empty()).collect();
    let times = || with_curve.iter().flat_map(|result| &result.curve).map(|(_, ns)| ns / 1e3);
    let range = times().fold(f64::INFINITY, f64::min) * 0.9..times().fold(0.0, f64::max) * 1.1;
    if with_curve.is_empty() || range.start <= 0.0 {
        return Ok(None);
    }
    let subjects = distinct(with_curve.iter().map(|result| &result.subject));
    let panels = distinct(with_curve.iter().map(|result| &result.parameters));
    let rows = panels.len().div_ceil(COLUMNS);
    let mut svg = String::new();
    let size = (WIDTH as u32, rows as u32 * PANEL_HEIGHT);
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    for (area, parameters) in root.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        let lines = with_curve.iter().filter(|result| result.parameters == *parameters);
        let colored = lines.filter_map(|result| {
            let place = subjects.iter().position(|subject| **subject == result.subject)?;
            Some((*result, COLORS[place % COLORS.len()]))
        });
        panel(area, parameters, range.clone(), colored)?;
    }
    root.present().context("finish the picture")?;
    drop(root);
    Ok(Some(svg))
}

fn panel<'a>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    parameters: &BTreeMap<String, String>,
    range: Range<f64>,
    lines: impl Iterator<Item = (&'a Outcome, RGBColor)>,
) -> anyhow::Result<()> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let caption = if parameters.is_empty() { "no injector".to_owned() } else { parameters.join(", ") };
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..4.0, range.log_scale())
        .context("lay out the curves")?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("round trip, us")
        .x_labels(5)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|us| format!("{us:.0}"))
        .draw()
        .context("draw the axes")?;
    for (result, color) in lines {
        let points = result.curve.iter().filter(|(q, _)| *q < 1.0).map(|(q, ns)| (nines(*q), ns / 1e3));
        let line =
            chart.draw_series(LineSeries::new(points, color.stroke_width(2))).context("draw a curve")?;
        line.label(&result.subject).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .context("draw the legend")
}

/// Each value once, in the order of their first appearance.
fn distinct<'a, T: PartialEq>(values: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

/// How many nines a quantile has: 0.99 has two.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn percentile(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    format!("{:.1$}", percent, (nines.round() as usize).saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{outcome, report};

    #[test]
    fn pictures_name_every_subject_that_has_figures() {
        let report = report(vec![outcome("one", &[1e6, 2e6]), outcome("two", &[3e6]), outcome("none", &[])]);
        for svg in [bars(&report.cases[0]), curves(&report.cases[0])] {
            let svg = svg.unwrap().expect("a picture");
            assert!(svg.starts_with("<svg") && svg.contains("one") && svg.contains("two"), "{svg}");
            assert!(!svg.contains("none<"), "it has no figure");
        }
    }

    #[test]
    fn each_rate_of_the_injector_has_a_panel_and_each_subject_its_color_in_all() {
        let mut injecting = outcome("two", &[1e6, 2e6]);
        injecting.parameters.insert("injector".to_owned(), "10/s".to_owned());
        let report = report(vec![outcome("one", &[1e6]), outcome("two", &[3e6, 4e6]), injecting]);
        let svg = curves(&report.cases[0]).unwrap().expect("a picture");
        assert_eq!([svg.matches("no injector").count(), svg.matches("injector 10/s").count()], [1, 1]);
        let color = |index: usize| {
            let RGBColor(red, green, blue) = COLORS[index];
            svg.matches(&format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"")).count()
        };
        // The line and its mark in the legend.
        assert_eq!([color(0), color(1), color(2)], [2, 4, 0]);
    }

    #[test]
    fn without_figures_there_is_no_picture() {
        let report = report(vec![outcome("none", &[])]);
        assert_eq!(bars(&report.cases[0]).unwrap(), None);
        assert_eq!(curves(&report.cases[0]).unwrap(), None);
    }

    #[test]
    fn percentiles_are_written_with_as_many_nines_as_they_have() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(percentile), ["0", "90", "99", "99.9", "99.99"]);
        assert!((nines(0.99) - 2.0).abs() < 1e-9);
    }
}
