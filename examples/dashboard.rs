//! Draws the dashboard as an SVG: the panels that an end-to-end test read from its Prometheus, in
//! their places and with the units, names, thresholds and mappings that Grafana gives them. `make
//! dashboard-picture` runs it.

#![allow(
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a picture that cannot be drawn is not drawn"
)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Read as _},
};

use serde_json::Value;

/// One unit of the dashboard's grid, in pixels.
const COLUMN: f64 = 60.0;
const ROW: f64 = 33.0;
const MIB: f64 = 1_048_576.0;
const BACKGROUND: &str = "#111217";
const PANEL: &str = "#181b1f";
const EDGE: &str = "#2a2d33";
const TEXT: &str = "#d5d6de";
const FAINT: &str = "#8e9099";
const COLOURS: [&str; 8] = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d"];

fn main() -> anyhow::Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let read: Value = serde_json::from_str(&text)?;
    let panels = read["panels"].as_array().unwrap();
    let bottom = |panel: &Value| side(panel, "y") + side(panel, "h");
    let height = panels.iter().map(bottom).fold(0.0, f64::max) * ROW + 8.0;
    let width = 24.0 * COLUMN + 8.0;
    println!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="Inter, Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="12">"#
    );
    println!(r#"<rect width="{width}" height="{height}" fill="{BACKGROUND}"/>"#);
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let end = targets.flat_map(found).flat_map(|series| series.points).map(|(time, _)| time).fold(0.0, f64::max);
    let window = (end - read["seconds"].as_f64().unwrap(), end);
    for panel in panels {
        println!("{}", Canvas::of(panel).drawn(panel, window));
    }
    println!("</svg>");
    Ok(())
}

fn side(panel: &Value, name: &str) -> f64 {
    panel["gridPos"][name].as_f64().unwrap()
}

/// One series that a query found.
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    /// Time and value; one for an instant.
    points: Vec<(f64, f64)>,
}

impl Series {
    fn last(&self) -> f64 {
        self.points.last().unwrap().1
    }
}

/// What a target found.
fn found(target: &Value) -> Vec<Series> {
    let read = |sample: &Value| (sample[0].as_f64().unwrap(), sample[1].as_str().unwrap().parse().unwrap());
    let of = |series: &Value| {
        let labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
        let name = target["legendFormat"].as_str().unwrap_or_default().to_owned();
        let name = labels.iter().fold(name, |name, (label, value)| name.replace(&format!("{{{{{label}}}}}"), value));
        let points: Vec<(f64, f64)> = match series["values"].as_array() {
            Some(samples) => samples.iter().map(read).collect(),
            None => vec![read(&series["value"])],
        };
        Series { name, labels, points: points.into_iter().filter(|(_, value)| value.is_finite()).collect() }
    };
    let series = target["found"].as_array().unwrap().iter().map(of);
    series.filter(|series| !series.points.is_empty()).collect()
}

/// How a panel shows the values of this name: the defaults, and what overrides them.
struct Field<'a> {
    layers: Vec<&'a Value>,
}

impl<'a> Field<'a> {
    fn of(panel: &'a Value, name: &str) -> Self {
        let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap().iter();
        let mine = overrides.filter(|entry| entry["matcher"]["options"] == name);
        let properties = mine.flat_map(|entry| entry["properties"].as_array().unwrap());
        Self { layers: properties.chain([&panel["fieldConfig"]["defaults"]]).collect() }
    }

    fn setting(&self, name: &str) -> &'a Value {
        let of = |layer: &'a Value| if layer["id"] == name { &layer["value"] } else { &layer[name] };
        self.layers.iter().map(|layer| of(layer)).find(|value| !value.is_null()).unwrap_or(&Value::Null)
    }

    fn text(&self, value: f64) -> String {
        let mapped = self.mapped(value)["text"].as_str().map(str::to_owned);
        let value = if self.setting("decimals") == 0 { value.round() } else { value };
        mapped.unwrap_or_else(|| with_unit(value, self.unit()))
    }

    fn unit(&self) -> &'a str {
        self.setting("unit").as_str().unwrap_or_default()
    }

    fn mapped(&self, value: f64) -> &'a Value {
        &self.setting("mappings")[0]["options"][value.to_string()]
    }

    fn colour(&self, value: f64) -> &'static str {
        let steps = self.setting("thresholds")["steps"].as_array();
        let reached = |step: &&Value| step["value"].as_f64().is_none_or(|from| value >= from);
        let step = steps.and_then(|steps| steps.iter().rfind(reached));
        let named = self.mapped(value)["color"].as_str().or(step.and_then(|step| step["color"].as_str()));
        match named {
            Some("red") => "#f2495c",
            Some("orange") => "#ff9830",
            Some("green") => "#73bf69",
            _ => TEXT,
        }
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => format!("{:.0} MiB", value / MIB),
        "s" => seconds(value),
        "dateTimeFromNow" => {
            let ago = jiff::Timestamp::now().as_millisecond() as f64 - value;
            format!("{} ago", seconds(ago / 1000.0))
        }
        "reqps" => format!("{value}/s"),
        _ => format!("{value}"),
    }
}

fn seconds(value: f64) -> String {
    match value {
        0.0 => "0 s".to_owned(),
        value if value < 0.001 => format!("{:.0} µs", value * 1e6),
        value if value < 1.0 => format!("{:.3} ms", value * 1e3).replace(".000", ""),
        value if value < 120.0 => format!("{value:.0} s"),
        value if value < 7200.0 => format!("{:.1} min", value / 60.0),
        value => format!("{:.1} hours", value / 3600.0),
    }
}

/// The place of a panel, and what is drawn there so far.
struct Canvas {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    svg: String,
}

impl Canvas {
    fn of(panel: &Value) -> Self {
        Self {
            x: side(panel, "x") * COLUMN + 8.0,
            y: side(panel, "y") * ROW + 8.0,
            width: side(panel, "w") * COLUMN - 8.0,
            height: side(panel, "h") * ROW - 8.0,
            svg: String::new(),
        }
    }

    fn drawn(mut self, panel: &Value, window: (f64, f64)) -> String {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            self.text((0.0, 18.0), "start", 14, TEXT, &format!("⌄ {title}"));
            return self.svg;
        }
        let (width, height) = (self.width, self.height);
        self.rect((0.0, 0.0), (width, height), PANEL, &format!(r#" rx="2" stroke="{EDGE}""#));
        self.text((8.0, 18.0), "start", 12, TEXT, title);
        let targets = panel["targets"].as_array().unwrap();
        let all: Vec<Series> = targets.iter().flat_map(found).collect();
        if all.is_empty() {
            let nothing = panel["fieldConfig"]["defaults"]["noValue"].as_str().unwrap_or("No data");
            self.text((width / 2.0, height / 2.0 + 12.0), "middle", 14, FAINT, nothing);
            return self.svg;
        }
        match panel["type"].as_str().unwrap() {
            "stat" => self.stat(panel, &all),
            "bargauge" => self.bars(panel, &all),
            "table" => self.table(panel, targets),
            _ => self.axes(panel, &all, window),
        }
        self.svg
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, colour: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let (x, y) = (self.x + x, self.y + y);
        let _ = writeln!(
            self.svg,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>"#
        );
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str, more: &str) {
        let (x, y) = (self.x + x, self.y + y);
        let _ = writeln!(
            self.svg,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"{more}/>"#
        );
    }

    fn stat(&mut self, panel: &Value, all: &[Series]) {
        let columns = all.len().min(6);
        let rows = all.len().div_ceil(columns);
        let cell = (self.width / columns as f64, (self.height - 24.0) / rows as f64);
        let size = if rows > 1 || columns > 2 { 22 } else { 26 };
        for (number, series) in all.iter().enumerate() {
            let x = ((number % columns) as f64 + 0.5) * cell.0;
            let y = 24.0 + ((number / columns) as f64 + 0.5) * cell.1;
            let field = Field::of(panel, &series.name);
            let (text, colour) = (field.text(series.last()), field.colour(series.last()));
            if panel["options"]["textMode"] == "value_and_name" {
                self.text((x, y - 10.0), "middle", 12, FAINT, &series.name);
                self.text((x, y + 16.0), "middle", size, colour, &text);
            } else {
                let size = if text.len() as f64 * f64::from(size) * 0.55 > cell.0 - 8.0 { 15 } else { size };
                self.text((x, y + 4.0), "middle", size, colour, &text);
            }
        }
    }

    fn bars(&mut self, panel: &Value, all: &[Series]) {
        let most = all.iter().map(Series::last).fold(0.0, f64::max);
        let height = ((self.height - 32.0) / all.len() as f64).min(34.0);
        for (number, series) in all.iter().enumerate() {
            let y = 30.0 + number as f64 * height;
            let width = (self.width - 210.0) * series.last() / most;
            let colour = if panel["fieldConfig"]["defaults"]["color"]["fixedColor"] == "yellow" { 1 } else { 3 };
            self.text((150.0, y + height / 2.0 + 4.0), "end", 12, TEXT, &series.name);
            self.rect((158.0, y + 3.0), (width.max(2.0), height - 6.0), COLOURS[colour], r#" fill-opacity="0.8""#);
            let text = format!("{:.0}", series.last());
            self.text((166.0 + width, y + height / 2.0 + 4.0), "start", 12, TEXT, &text);
        }
    }

    /// Merges the rows of all targets that are about one node or one check, and names the columns
    /// as the panel's last transformation says.
    fn table(&mut self, panel: &Value, targets: &[Value]) {
        let steps = panel["transformations"].as_array().unwrap();
        let organize = &steps.last().unwrap()["options"];
        let mut rows: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for target in targets {
            let value = format!("Value #{}", target["refId"].as_str().unwrap());
            let title = organize["renameByName"][&value].as_str().unwrap_or_default();
            for series in found(target) {
                let subject = series.labels.get("node").or(series.labels.get("reason")).unwrap();
                let row = rows.entry(subject.clone()).or_default();
                row.insert(value.clone(), Field::of(panel, title).text(series.last()));
                row.extend(series.labels);
            }
        }
        let mut columns: Vec<(u64, &str, &str)> = organize["indexByName"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, place)| {
                let title = organize["renameByName"][name].as_str().unwrap();
                (place.as_u64().unwrap(), name.as_str(), title)
            })
            .filter(|(_, name, _)| rows.values().any(|row| row.contains_key(*name)))
            .collect();
        columns.sort_unstable();
        let width = (self.width - 16.0) / columns.len() as f64;
        for (column, (_, name, title)) in columns.iter().enumerate() {
            let x = 12.0 + column as f64 * width;
            self.text((x, 42.0), "start", 12, "#6e9fff", title);
            for (number, row) in rows.values().enumerate() {
                let text = row.get(*name).map_or("", String::as_str);
                self.text((x, 66.0 + number as f64 * 22.0), "start", 12, TEXT, text);
            }
        }
    }

    fn axes(&mut self, panel: &Value, all: &[Series], (begin, end): (f64, f64)) {
        let stacked = panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars";
        let (left, top, right, bottom) = (62.0, 30.0, self.width - 12.0, self.height - 44.0);
        let mut stack: BTreeMap<u64, f64> = BTreeMap::new();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
        let at = |time: f64| time as u64;
        for (time, value) in all.iter().flat_map(|series| &series.points) {
            let sum = stack.entry(at(*time)).or_default();
            *sum = if stacked { *sum + value } else { sum.max(*value) };
        }
        let field = Field::of(panel, "");
        let unit = if field.unit() == "bytes" { MIB } else { 1.0 };
        let most = unit * nice(stack.values().copied().fold(0.0, f64::max) / unit);
        let place = |(time, value): (f64, f64)| {
            (left + (right - left) * (time - begin) / (end - begin), bottom - (bottom - top) * value / most)
        };
        for part in [0.0, 0.5, 1.0] {
            let (_, y) = place((begin, part * most));
            self.rect((left, y), (right - left, 1.0), EDGE, "");
            self.text((left - 6.0, y + 4.0), "end", 10, FAINT, &field.text(part * most));
        }
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = left + part * (right - left);
            let anchor = if part > 0.9 { "end" } else { "middle" };
            self.text((x, bottom + 15.0), anchor, 10, FAINT, &format!("{:.0}s", part * (end - begin)));
        }
        let mut under: BTreeMap<u64, f64> = BTreeMap::new();
        let width = ((right - left) / (end - begin) - 0.5).max(1.0);
        for (number, series) in all.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            if stacked {
                for (time, value) in &series.points {
                    let base = under.entry(at(*time)).or_default();
                    let (x, y) = place((*time, *base + value));
                    let height = (bottom - top) * value / most;
                    self.rect((x - width / 2.0, y), (width, height), colour, r#" fill-opacity="0.8""#);
                    *base += value;
                }
            } else {
                // A line ends where a value is missing.
                for part in series.points.chunk_by(|before, after| after.0 - before.0 < 1.5) {
                    let (x, y) = (self.x, self.y);
                    let points = part.iter().map(|point| place(*point));
                    let points: Vec<String> =
                        points.map(|(across, down)| format!("{:.1},{:.1}", x + across, y + down)).collect();
                    // One point is a dot.
                    let points = format!("{} {}", points[0], points.join(" "));
                    let _ = writeln!(
                        self.svg,
                        r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linecap="round"/>"#
                    );
                }
            }
        }
        self.legend(all);
    }

    fn legend(&mut self, all: &[Series]) {
        let mut x = 12.0;
        for (number, series) in all.iter().enumerate() {
            let width = 26.0 + series.name.len() as f64 * 6.6;
            if x + width > self.width && number > 0 {
                self.text((x, self.height - 10.0), "start", 11, FAINT, "…");
                break;
            }
            self.rect((x, self.height - 16.0), (10.0, 4.0), COLOURS[number % COLOURS.len()], "");
            self.text((x + 14.0, self.height - 10.0), "start", 11, TEXT, &series.name);
            x += width;
        }
    }
}

/// The next number up that a person would write on an axis.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}
