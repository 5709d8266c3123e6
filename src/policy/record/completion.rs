//! What the mutating webhook completes in the evidence before it judges a write: the time, and the
//! boot that the fence ended.

use std::borrow::Cow;

use jiff::Timestamp;

use super::stamp::{Stamps, written};
use crate::policy::{
    annotation::{BOOT_ID, EVIDENCE, FENCED_AT, NOW},
    request::{Request, Write},
};

/// The evidence that is completed, by key. Empty if there is nothing to complete.
///
/// Whoever records a fence need not look up which boot it ended: it is the one that the stored Node
/// reports. A new time of the fence means a new fence, so a boot that the record has from before
/// does not belong to it. The boot of the same fence stays, even if the write removes it: otherwise
/// the old fence could be said to have ended a later boot. A record that is added while the node is
/// out of service gets no boot: the node may have booted since.
pub(in crate::policy) fn completion(write: &Write, now: Timestamp) -> Stamps {
    let (Some(old), Some(new)) = (write.before(), write.after()) else { return time_of_creation(write, now) };
    let mut completion = Stamps::new();
    let writes = |key: &str| new.annotation(key).is_some() && old.annotation(key) != new.annotation(key);
    if writes(FENCED_AT) && new.annotation(FENCED_AT) == Some(NOW) {
        completion.insert(FENCED_AT, Some(written(now)));
    }
    if old.is_out_of_service() {
        return completion;
    }
    let is_same_fence = old.annotation(FENCED_AT).is_some() && old.annotation(FENCED_AT) == new.annotation(FENCED_AT);
    if let (Some(boot), None, true) = (old.annotation(BOOT_ID), new.annotation(BOOT_ID), is_same_fence) {
        completion.insert(BOOT_ID, Some(boot.to_owned()));
        return completion;
    }
    let is_recorded = new.is_out_of_service() || EVIDENCE.into_iter().any(writes);
    let lacks_boot = is_recorded && new.annotation(BOOT_ID).is_none();
    let is_new_fence = writes(FENCED_AT) && !writes(BOOT_ID);
    if let Some(boot) = old.boot_id().filter(|_| lacks_boot || is_new_fence) {
        completion.insert(BOOT_ID, Some(boot.to_owned()));
    }
    completion.retain(|key, value| new.annotation(key) != value.as_deref());
    completion
}

/// On CREATE no boot is stored.
fn time_of_creation(write: &Write, now: Timestamp) -> Stamps {
    let is_now = write.after().is_some_and(|new| new.annotation(FENCED_AT) == Some(NOW));
    is_now.then(|| (FENCED_AT, Some(written(now)))).into_iter().collect()
}

/// The request with its evidence completed.
pub(in crate::policy) fn completed<'a>(request: &'a Request, completion: &Stamps) -> Cow<'a, Request> {
    if completion.is_empty() {
        return Cow::Borrowed(request);
    }
    let mut request = request.clone();
    if let Write::Create { new } | Write::Update { new, .. } = &mut request.write {
        new.annotate(completion);
    }
    Cow::Owned(request)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::policy::{
        annotation::{FENCED_BY, METHOD, PLACED_AT, PROOF},
        object::node::{Node, OUT_OF_SERVICE},
    };

    #[expect(clippy::needless_pass_by_value, reason = "literals read better without an ampersand")]
    fn node(tainted: bool, annotations: Value, boot: &str) -> Node {
        let taints = if tainted { json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]) } else { json!([]) };
        from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"taints": taints},
            "status": {"nodeInfo": {"bootID": boot}},
        }))
        .unwrap()
    }

    fn completes(write: &Write) -> Value {
        json!(completion(write, "2026-11-22T10:20:00.9Z".parse().unwrap()))
    }

    #[test]
    fn the_boot_of_the_stored_node_belongs_to_every_fence() {
        let boot = json!({BOOT_ID: "boot-1"});
        let (early, late) = ("2026-11-22T10:15:00Z", "2026-11-22T10:18:00Z");
        for (what, (was, old), (is, new), completed) in [
            ("evidence without one", (false, json!({})), (false, json!({FENCED_AT: early})), boot.clone()),
            ("a part of the evidence", (false, json!({METHOD: "a"})), (false, json!({METHOD: "b"})), boot.clone()),
            ("evidence with one", (false, json!({})), (false, json!({METHOD: "a", BOOT_ID: "boot-0"})), json!({})),
            (
                "a new fence, and the boot of the last one",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (false, json!({FENCED_AT: late, BOOT_ID: "boot-0"})),
                boot.clone(),
            ),
            (
                "a new fence that brings its boot",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (false, json!({FENCED_AT: late, BOOT_ID: "boot-1"})),
                json!({}),
            ),
            (
                "a new proof of the same fence",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0", PROOF: "seen"})),
                json!({}),
            ),
            ("a withdrawal", (false, json!({METHOD: "a", PROOF: "b"})), (false, json!({METHOD: "a"})), json!({})),
            ("a placement without evidence", (false, json!({})), (true, json!({})), boot.clone()),
            ("a placement on evidence without one", (false, json!({METHOD: "a"})), (true, json!({METHOD: "a"})), boot),
            (
                "a placement on the boot of the last fence",
                (false, json!({BOOT_ID: "b"})),
                (true, json!({BOOT_ID: "b"})),
                json!({}),
            ),
            (
                "the boot removed from the same fence",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (true, json!({FENCED_AT: early})),
                json!({BOOT_ID: "boot-0"}),
            ),
            (
                "the boot removed with a new fence",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (false, json!({FENCED_AT: late})),
                json!({BOOT_ID: "boot-1"}),
            ),
            (
                "a whole record withdrawn",
                (false, json!({FENCED_AT: early, BOOT_ID: "boot-0"})),
                (false, json!({})),
                json!({}),
            ),
            ("a record that is added late", (true, json!({})), (true, json!({FENCED_AT: early})), json!({})),
            ("a release with evidence", (true, json!({})), (false, json!({FENCED_AT: early})), json!({})),
            ("another annotation", (false, json!({})), (false, json!({PLACED_AT: early})), json!({})),
        ] {
            let write = Write::Update { old: node(was, old, "boot-1"), new: node(is, new, "claimed") };
            assert_eq!(completes(&write), completed, "{what}");
        }
    }

    #[test]
    fn a_node_that_reports_no_boot_completes_none() {
        let write = Write::Update { old: node(false, json!({}), ""), new: node(true, json!({}), "claimed") };
        assert_eq!(completes(&write), json!({}));
    }

    #[test]
    fn now_is_the_time_of_the_write_that_brings_it() {
        let now = json!({FENCED_AT: "now", FENCED_BY: "alice", BOOT_ID: "boot-1"});
        let completed = json!({FENCED_AT: "2026-11-22T10:20:00Z"});
        let old = |annotations| node(false, annotations, "boot-1");
        let new = node(false, now.clone(), "boot-1");
        assert_eq!(completes(&Write::Update { old: old(json!({})), new: new.clone() }), completed);
        assert_eq!(completes(&Write::Create { new: new.clone() }), completed);
        let stored = Write::Update { old: old(now), new };
        assert_eq!(completes(&stored), json!({}), "nobody knows which time a stored one means");
        assert_eq!(completes(&Write::Delete { old: old(json!({})) }), json!({}));
    }

    #[test]
    fn the_completed_request_has_what_was_completed() {
        let write = Write::Update { old: node(false, json!({}), "boot-1"), new: node(true, Value::Null, "boot-1") };
        let request = Request { node: "n1".into(), user: crate::policy::request::User::default(), write };
        let completion = completion(&request.write, Timestamp::UNIX_EPOCH);
        let completed = completed(&request, &completion);
        assert_eq!(completed.write.after().unwrap().annotation(BOOT_ID), Some("boot-1"));
    }
}
