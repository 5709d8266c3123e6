//! The table of nodes, as kubectl prints tables.

use std::fmt;

use jiff::SignedDuration;

use crate::cli::{
    columns::{NONE, aligned, word},
    desk::Row,
};
use crate::policy::{
    annotation::{FENCED_AT, FENCED_BY, METHOD, PLACED_BY, SOURCE},
    reason::Code,
    standing::{Note, State},
};

const COLUMNS: [&str; 8] = ["NAME", "STATE", "READY", "LEASE", "OUT", "PODS", "VOLUMES", "NEXT"];
const MORE_COLUMNS: [&str; 8] = ["METHOD", "FENCED-BY", "FENCED-AT", "SOURCE", "PLACED-BY", "BOOT", "REASONS", "NOTES"];
const UNKNOWN: &str = "<unknown>";

/// The table, with a line break after each line. Empty without rows.
pub fn table(rows: &[Row], is_wide: bool, has_header: bool) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns = COLUMNS.into_iter().chain(MORE_COLUMNS.into_iter().filter(|_| is_wide));
    let header = has_header.then(|| columns.map(str::to_owned).collect::<Vec<_>>());
    let cells = rows.iter().map(|row| {
        let mut cells = cells(row);
        cells.extend(more_cells(row).into_iter().filter(|_| is_wide));
        cells
    });
    aligned(header.into_iter().chain(cells))
}

fn cells(row: &Row) -> Vec<String> {
    let Row { listed, facts, standing, .. } = row;
    let is_read = standing.state != State::InService;
    let count = |known: bool, count: usize| match (is_read, known) {
        (false, _) => "-".to_owned(),
        (true, false) => UNKNOWN.to_owned(),
        (true, true) => count.to_string(),
    };
    let age = |at| Age(facts.api_now().duration_since(at)).to_string();
    let lease = match facts.lease.value() {
        Ok(answer) => {
            standing.sign_of_life.map_or(NONE.to_owned(), |sign| Age(answer.date.duration_since(sign.at)).to_string())
        }
        Err(_) => UNKNOWN.to_owned(),
    };
    let out = match row.out_since() {
        Some(since) => age(since),
        None if listed.node.is_out_of_service() => UNKNOWN.to_owned(),
        None => NONE.to_owned(),
    };
    vec![
        word(row.name()),
        standing.state.name().to_owned(),
        word(listed.node.ready_status()),
        lease,
        out,
        count(facts.pods.value().is_ok(), standing.pods.len()),
        count(facts.volume_attachments.value().is_ok(), standing.volumes.len()),
        standing.next.name().to_owned(),
    ]
}

fn more_cells(row: &Row) -> Vec<String> {
    let Row { listed, standing, .. } = row;
    let recorded = |key: &str| listed.node.annotation(key).map_or(NONE.to_owned(), word);
    let boot = match standing.is_in_recorded_boot {
        Some(true) => "fenced",
        Some(false) => "new",
        None => UNKNOWN,
    };
    let codes: Vec<&str> = standing.denying().map(Code::name).collect();
    let notes: Vec<&str> = standing.notes.iter().map(|note| Note::name(*note)).collect();
    let joined = |names: &[&str]| if names.is_empty() { NONE.to_owned() } else { names.join(",") };
    let record = [METHOD, FENCED_BY, FENCED_AT, SOURCE, PLACED_BY].map(recorded);
    record.into_iter().chain([boot.to_owned(), joined(&codes), joined(&notes)]).collect()
}

/// An age as kubectl prints it (`k8s.io/apimachinery/pkg/util/duration`: `HumanDuration`).
pub(super) struct Age(pub SignedDuration);

impl fmt::Display for Age {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
            if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
        };
        let text = match seconds {
            // A little ahead is a clock that differs; more is not an age.
            ..-1 => "<invalid>".to_owned(),
            -1..0 => "0s".to_owned(),
            0..120 => format!("{seconds}s"),
            120..600 => two(minutes, "m", seconds % 60, "s"),
            600..10_800 => format!("{minutes}m"),
            10_800..28_800 => two(hours, "h", minutes % 60, "m"),
            28_800..172_800 => format!("{hours}h"),
            172_800..691_200 => two(days, "d", hours % 24, "h"),
            691_200..63_072_000 => format!("{days}d"),
            63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
            _ => format!("{}y", days / 365),
        };
        formatter.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_what_kubectl_prints() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (600, "10m"),
            (10_799, "179m"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(Age(SignedDuration::from_secs(seconds)).to_string(), text, "{seconds}");
        }
    }
}
