//! OpenMetrics text as the older text format of Prometheus (version 0.0.4), which every scraper and
//! every tool reads.
//!
//! The formats differ in their comments alone: the older one has no `UNIT` and no `EOF`, and
//! describes a counter under the name of its sample, which ends in `_total`.

/// The same metrics in the older format.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            // Whether its metric is a counter is in the next line.
            help = Some(line);
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter"));
        for comment in help.take().into_iter().chain([line]) {
            match counter {
                _ if comment.starts_with("# UNIT ") || comment == "# EOF" => continue,
                Some(name) => classic.push_str(&comment.replacen(name, &format!("{name}_total"), 1)),
                None => classic.push_str(comment),
            }
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_described_under_the_name_of_its_sample_and_units_are_left_out() {
        let open = "# HELP a_b Of a_b.\n# TYPE a_b counter\na_b_total{x=\"# EOF\"} 1\n\
                    # HELP c_seconds How long.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2.0\n# EOF\n";
        let classic = "# HELP a_b_total Of a_b.\n# TYPE a_b_total counter\na_b_total{x=\"# EOF\"} 1\n\
                       # HELP c_seconds How long.\n# TYPE c_seconds gauge\nc_seconds 2.0\n";
        assert_eq!(from_open_metrics(open), classic);
    }
}
