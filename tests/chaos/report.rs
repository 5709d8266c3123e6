//! What was measured, in words and numbers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use crate::{faults::Episode, writers::Sample};

/// How long unguarded writes to Nodes took.
pub struct Times(Vec<Duration>);

impl Times {
    /// Of the unguarded writes that the API server answered, those that `belongs` picks by their
    /// start and end.
    pub fn of(samples: &[Sample], belongs: impl Fn(Instant, Instant) -> bool) -> Self {
        let is_one = |sample: &&Sample| {
            !sample.guarded && sample.of_node && sample.code != 0 && belongs(sample.start, sample.start + sample.took)
        };
        let mut times: Vec<Duration> = samples.iter().filter(is_one).map(|sample| sample.took).collect();
        times.sort_unstable();
        Self(times)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share, in per mille, did not exceed.
    pub fn quantile(&self, per_mille: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * per_mille / 1000).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |per_mille| self.quantile(per_mille).as_secs_f64() * 1000.0;
        let (median, p99, longest) = (millis(500), millis(990), millis(1000));
        write!(
            formatter,
            "{:6} writes, median {median:7.1} ms, p99 {p99:7.1} ms, longest {longest:7.1} ms",
            self.count()
        )
    }
}

/// Whether the time between overlaps one of these faults.
pub fn overlaps<'a>(mut episodes: impl Iterator<Item = &'a Episode>, start: Instant, end: Instant) -> bool {
    episodes.any(|episode| start <= episode.end && episode.start <= end)
}

/// The number of answers by the kind of the write.
pub fn by_kind(samples: &[Sample]) -> String {
    let mut counts: BTreeMap<(bool, &str), [usize; 4]> = BTreeMap::new();
    for sample in samples {
        let column = match sample.code {
            200 => 0,
            0 => 3,
            _ if sample.refused.is_some() => 1,
            _ => 2,
        };
        counts.entry((sample.guarded, sample.kind)).or_default()[column] += 1;
    }
    let mut text =
        format!("{:<11} {:<22} {:>8} {:>8} {:>8} {:>9}\n", "", "write", "done", "refused", "other", "no answer");
    for ((guarded, kind), [done, refused, other, unanswered]) in counts {
        let guarded = if guarded { "guarded" } else { "not guarded" };
        let _ = writeln!(text, "{guarded:<11} {kind:<22} {done:>8} {refused:>8} {other:>8} {unanswered:>9}");
    }
    text
}
