//! `NodeNotRebooted` and `BootUnchanged`: whether the machine has booted since it was fenced.
//!
//! A machine that was only cut off keeps its processes and its mounts until it reboots. If it
//! returns to service before, stale writes reach volumes that have moved
//! (Rook and ceph-csi: never before a full power cycle).

use super::{Outcome, Rule, no_facts};
use crate::policy::{
    annotation::{BOOT_ID, METHOD},
    assessment::Assessment,
    blocker::NotRebooted,
    evidence::Method,
    proposal::Proposal,
    reason::{Code, Reason},
    transition::Transition,
};

/// After an isolation, only another boot shows that the old mounts are gone.
pub(super) const NOT_REBOOTED: Rule = Rule {
    code: Code::NodeNotRebooted,
    applies: |proposal| proposal.does(Transition::Release),
    needs: no_facts,
    check: |Assessment { proposal, .. }| match fenced_by(proposal) {
        Some(method) if !method.stops_the_machine() => match not_rebooted(proposal) {
            Some(why) => Outcome::fail(Reason::NodeNotRebooted { method, why }),
            None => Outcome::pass(),
        },
        Some(_) | None => Outcome::pass(),
    },
};

/// A machine that was stopped comes back in another boot.
pub(super) const BOOT_UNCHANGED: Rule = Rule {
    code: Code::BootUnchanged,
    applies: |proposal| proposal.does(Transition::Release),
    needs: no_facts,
    check: |Assessment { proposal, .. }| match (fenced_by(proposal), not_rebooted(proposal)) {
        (Some(method), Some(NotRebooted::SameBoot { boot_id })) if method.stops_the_machine() => {
            Outcome::fail(Reason::BootUnchanged { method, boot_id })
        }
        _ => Outcome::pass(),
    },
};

/// How the node was fenced, by the record on the stored Node.
fn fenced_by(proposal: &Proposal<'_>) -> Option<Method> {
    Method::parse(proposal.change(METHOD).0?)
}

/// Why nothing shows that the machine has booted since the fence. `None` if it has.
fn not_rebooted(proposal: &Proposal<'_>) -> Option<NotRebooted> {
    let node = proposal.request.write.current();
    match (proposal.change(BOOT_ID).0, node.is_back(), node.boot_id()) {
        (None, ..) => Some(NotRebooted::NotRecorded),
        (Some(_), false, _) => Some(NotRebooted::NotReady),
        (Some(_), true, None) => Some(NotRebooted::NotReported),
        (Some(fenced), true, Some(current)) if fenced == current => {
            Some(NotRebooted::SameBoot { boot_id: current.into() })
        }
        (Some(_), true, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{evidence, facts, fails, node, run, update},
        *,
    };
    use crate::policy::{reason::Mode, request::Request, settings::Settings};

    /// The release of a node that runs `boot-1`, by the record of a fence of boot `fenced`.
    fn release(method: &str, ready: &str, fenced: Option<&str>) -> Request {
        let mut annotations = evidence();
        annotations[METHOD] = method.into();
        if let Some(fenced) = fenced {
            annotations[BOOT_ID] = fenced.into();
        }
        let mut old = node(true, annotations.clone());
        old.status.conditions[0].status = ready.into();
        update(old, node(false, annotations))
    }

    #[test]
    fn after_an_isolation_only_another_boot_that_is_ready_passes() {
        for method in ["network-isolation", "storage-isolation"] {
            for (ready, fenced, expected) in [
                ("True", Some("boot-0"), false),
                ("True", Some("boot-1"), true),
                ("Unknown", Some("boot-0"), true),
                ("Unknown", Some("boot-1"), true),
                ("True", None, true),
                ("Unknown", None, true),
            ] {
                let request = release(method, ready, fenced);
                assert_eq!(fails(&NOT_REBOOTED, &request, &facts()), expected, "{method} Ready={ready} {fenced:?}");
                assert!(!fails(&BOOT_UNCHANGED, &request, &facts()));
            }
        }
        let mut silent = release("storage-isolation", "True", Some("boot-0"));
        let crate::policy::request::Write::Update { old, .. } = &mut silent.write else { unreachable!() };
        old.status.node_info.boot_id.clear();
        assert!(fails(&NOT_REBOOTED, &silent, &facts()), "the node does not report its boot");
    }

    #[test]
    fn after_a_stop_only_the_same_boot_fails_and_only_if_the_node_is_ready() {
        for method in ["power-off", "instance-stop", "hardware-removal"] {
            for (ready, fenced, expected) in [
                ("True", Some("boot-1"), true),
                ("True", Some("boot-0"), false),
                ("True", None, false),
                ("Unknown", Some("boot-1"), false),
            ] {
                let request = release(method, ready, fenced);
                assert_eq!(fails(&BOOT_UNCHANGED, &request, &facts()), expected, "{method} Ready={ready} {fenced:?}");
                assert!(!fails(&NOT_REBOOTED, &request, &facts()));
            }
        }
    }

    #[test]
    fn without_a_record_nothing_is_said_about_the_boot() {
        let old = node(true, serde_json::json!({BOOT_ID: "boot-1"}));
        let request = update(old, node(false, serde_json::json!({})));
        assert_eq!(
            (fails(&NOT_REBOOTED, &request, &facts()), fails(&BOOT_UNCHANGED, &request, &facts())),
            (false, false)
        );
    }

    #[test]
    fn without_a_recorded_boot_the_check_warns_unless_its_mode_is_set() {
        let mut settings = Settings::default();
        let mode = |fenced, settings: &Settings| {
            Proposal::new(&release("storage-isolation", "True", fenced), settings).mode(Code::NodeNotRebooted)
        };
        assert_eq!((mode(Some("boot-1"), &settings), mode(None, &settings)), (Mode::Enforce, Mode::Warn));
        settings.modes.insert(Code::NodeNotRebooted, Mode::Enforce);
        assert_eq!(mode(None, &settings), Mode::Enforce);
        settings.modes.insert(Code::NodeNotRebooted, Mode::Off);
        assert_eq!((mode(Some("boot-1"), &settings), mode(None, &settings)), (Mode::Off, Mode::Off));
    }

    #[test]
    fn the_message_says_why_nothing_shows_a_reboot() {
        let told = |request: &Request| run(&NOT_REBOOTED, request, &facts()).unwrap().failed.unwrap().to_string();
        let rest = "; storage-isolation does not end what runs on the machine";
        assert_eq!(
            told(&release("storage-isolation", "True", Some("boot-1"))),
            format!(
                "mounts from before the fence still exist: the node is Ready in the boot that was fenced, boot-1{rest}"
            )
        );
        assert_eq!(
            told(&release("storage-isolation", "True", None)),
            format!("mounts from before the fence may exist: the record does not say which boot was fenced{rest}")
        );
    }
}
