//! `status --watch`: the table, then a line for each change of a state, or of what holds a node.

use std::{collections::BTreeMap, pin::pin, process::ExitCode};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use tokio::time::interval;

use super::{AT_ONCE, Args, Output, json, read, table, urgency, wanted};
use crate::{
    cli::{
        columns::word,
        desk::{Desk, Row},
        print,
        wait::BEAT,
    },
    cluster::{Change, Listed},
    policy::{
        standing::{Next, State, is_in_service},
        text::Foreign,
    },
};

/// What is told about a node: a line is printed when it changes.
type Told = (State, usize, usize, Next);

/// Follows the nodes that were asked for until it is interrupted.
pub(super) async fn follow(desk: &Desk, args: &Args) -> anyhow::Result<ExitCode> {
    let live = desk.live().context("a file does not change: --watch needs a cluster")?;
    let mut followed = Followed { desk, args, told: BTreeMap::new(), lacks_header: !args.no_headers };
    let mut rows = read(desk, args).await?;
    rows.sort_by(|one, other| urgency(one).cmp(&urgency(other)));
    followed.tell_all(rows)?;

    let mut changes = pin!(live.watch(&wanted(args)));
    let mut nodes = Nodes::default();
    let mut beat = interval(BEAT);
    let mut error = None;
    loop {
        // Both are cancel-safe: a stream and an interval keep what they have not returned.
        tokio::select! {
            change = changes.next() => match change.context("the watch ended")? {
                Ok(change) => {
                    error = None;
                    nodes.apply(change);
                }
                Err(why) => {
                    if error.as_ref() != Some(&why) {
                        eprintln!("{why}; trying again");
                    }
                    error = Some(why);
                }
            },
            _ = beat.tick() => {
                if let Some(current) = &nodes.current {
                    followed.tell_changes(current).await?;
                }
            }
        }
    }
}

/// The Nodes, as the watch tells them.
#[derive(Default)]
struct Nodes {
    /// `None` until a list was complete once.
    current: Option<BTreeMap<String, Listed>>,
    /// A list that is not complete yet.
    next: BTreeMap<String, Listed>,
    is_listing: bool,
}

impl Nodes {
    fn apply(&mut self, change: Change) {
        let Self { current, next, is_listing } = self;
        match change {
            Change::Begin => {
                next.clear();
                *is_listing = true;
            }
            Change::Complete => {
                *is_listing = false;
                *current = Some(std::mem::take(next));
            }
            Change::Node(node) => {
                let nodes = if *is_listing { next } else { current.get_or_insert_default() };
                nodes.insert(node.node.metadata.name.clone(), *node);
            }
            Change::Gone(name) => {
                if let Some(nodes) = current {
                    nodes.remove(&name);
                }
            }
        }
    }
}

struct Followed<'a> {
    desk: &'a Desk,
    args: &'a Args,
    told: BTreeMap<String, Told>,
    /// Whether the header of the table is still to be printed: an empty table has none.
    lacks_header: bool,
}

impl Followed<'_> {
    /// Prints all nodes that are shown.
    fn tell_all(&mut self, rows: Vec<Row>) -> anyhow::Result<()> {
        self.told = rows.iter().map(|row| (row.name().to_owned(), told(row))).collect();
        let rows: Vec<Row> = rows.into_iter().filter(|row| self.args.shows(row)).collect();
        if self.args.output == Some(Output::Json) {
            return rows.iter().try_for_each(|row| self.tell(row, &rows));
        }
        print(&self.table(&rows, self.lacks_header))?;
        self.lacks_header &= rows.is_empty();
        Ok(())
    }

    /// Looks at the nodes, and prints those whose line is not the one that was told.
    async fn tell_changes(&mut self, nodes: &BTreeMap<String, Listed>) -> anyhow::Result<()> {
        let (desk, told_before) = (self.desk, &self.told);
        // Nothing is read for a node that goes on being in service.
        let is_looked_at = |listed: &&Listed| {
            let state = told_before.get(&listed.node.metadata.name).map_or(State::InService, |told| told.0);
            !is_in_service(&listed.node) || state != State::InService
        };
        let looks = nodes.values().filter(is_looked_at).map(|listed| desk.look(listed.clone()));
        let rows: Vec<Row> = stream::iter(looks).buffered(AT_ONCE).collect().await;
        for row in &rows {
            if self.told.get(row.name()) != Some(&told(row)) {
                self.tell(row, &rows)?;
                self.told.insert(row.name().to_owned(), told(row));
            }
        }
        let gone: Vec<String> = self.told.keys().filter(|name| !nodes.contains_key(*name)).cloned().collect();
        for name in gone {
            eprintln!("{} was deleted", Foreign::from(name.as_str()));
            self.told.remove(&name);
        }
        Ok(())
    }

    /// Prints the line of one node, in columns that are as wide as those of `rows`.
    fn tell(&mut self, row: &Row, rows: &[Row]) -> anyhow::Result<()> {
        if self.args.output == Some(Output::Json) {
            return Ok(print(&format!("{}\n", json::line(row, self.desk)?))?);
        }
        let name = word(row.name());
        let table = self.table(rows, true);
        let header = table.lines().take(usize::from(std::mem::take(&mut self.lacks_header)));
        let line = table.lines().skip(1).find(|line| line.split_whitespace().next() == Some(&name));
        Ok(print(&header.chain(line).flat_map(|line| [line, "\n"]).collect::<String>())?)
    }

    fn table(&self, rows: &[Row], has_header: bool) -> String {
        table::table(rows, self.args.output == Some(Output::Wide), has_header)
    }
}

fn told(row: &Row) -> Told {
    let standing = &row.standing;
    (standing.state, standing.pods.len(), standing.volumes.len(), standing.next)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn node(name: &str) -> Change {
        Change::Node(Box::new(from_value(json!({"metadata": {"name": name}})).unwrap()))
    }

    fn names(nodes: &Nodes) -> Option<Vec<&str>> {
        nodes.current.as_ref().map(|nodes| nodes.keys().map(String::as_str).collect())
    }

    #[test]
    fn a_list_replaces_what_was_known_once_it_is_complete() {
        let mut nodes = Nodes::default();
        let mut after = |change| {
            nodes.apply(change);
            names(&nodes).map(|names| names.join(" "))
        };
        assert_eq!(after(Change::Begin), None);
        assert_eq!(after(node("a")), None);
        assert_eq!(after(node("b")), None);
        assert_eq!(after(Change::Complete).as_deref(), Some("a b"));
        assert_eq!(after(node("c")).as_deref(), Some("a b c"));
        assert_eq!(after(Change::Gone("a".into())).as_deref(), Some("b c"));
        assert_eq!(after(Change::Begin).as_deref(), Some("b c"));
        assert_eq!(after(node("c")).as_deref(), Some("b c"));
        assert_eq!(after(Change::Complete).as_deref(), Some("c"), "b was deleted while the watch was away");
    }
}
