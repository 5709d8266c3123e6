//! Guarded writes: in the right order or not, complete or not, by those who may and those who may
//! not.

use std::sync::atomic::Ordering;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    history::objects::EVIDENCE,
    random::Random,
    writers::{JSON, Machine, Writers, entry, evidence, node_path, tainted},
};

impl Writers {
    pub async fn any(&self, random: &mut Random, machine: &Machine) {
        match random.below(10) {
            0..=2 => self.things(random, machine).await,
            3..=5 => self.attest(random, machine).await,
            6 | 7 => self.taint(random, machine).await,
            8 => self.life(random, machine).await,
            _ => self.break_rules(random, machine).await,
        }
    }

    /// Evidence that is complete, in part, malformed, withdrawn, or through another subresource.
    async fn attest(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let mut annotations = evidence(random, "someone");
        let mut target = path.clone();
        let kind = match random.below(8) {
            0..=2 => "attest",
            3 => {
                annotations = json!({"fencegate.dev/proof": random.below(99).to_string()});
                "attest in part"
            }
            4 => {
                annotations["fencegate.dev/fenced-at"] =
                    json!(random.pick(&["yesterday", "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"]));
                "attest wrongly"
            }
            5 => {
                for key in EVIDENCE {
                    annotations[format!("fencegate.dev/{key}")] = Value::Null;
                }
                "withdraw evidence"
            }
            6 => {
                target = format!("{path}/status");
                "attest through status"
            }
            _ => {
                annotations = json!({"fencegate.dev/hold": random.pick(&[json!("wait"), Value::Null])});
                "hold"
            }
        };
        self.guarded(kind, &self.alice, Method::PATCH, &target, json!({"metadata": {"annotations": annotations}}))
            .await;
    }

    /// The taint comes, changes and goes, in the right order or not.
    async fn taint(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let effect = *random.pick(&["NoExecute", "NoExecute", "NoSchedule", "PreferNoSchedule"]);
        let value = *random.pick(&["nodeshutdown", "other", ""]);
        let placed = tainted(&json!([entry(effect, value)]));
        let client = &self.alice;
        match random.below(9) {
            0 => drop(self.guarded("place", client, Method::PATCH, &path, placed).await),
            1 | 2 => {
                let mut both = placed;
                both["metadata"] = json!({"annotations": evidence(random, "at once")});
                self.guarded("place with evidence", client, Method::PATCH, &path, both).await;
            }
            3 => {
                let dry = format!("{path}?dryRun=All");
                self.guarded("place, dry run", client, Method::PATCH, &dry, placed).await;
            }
            4 => {
                let apply = format!("{path}?fieldManager=chaos&force=true");
                let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": machine.name}, "spec": placed["spec"]});
                let content = "application/apply-patch+yaml";
                self.request("apply the taint", true, client, Method::PATCH, content, &apply, Some(object)).await;
            }
            5 => {
                let two = tainted(&json!([entry("NoExecute", value), entry("NoSchedule", "")]));
                self.guarded("place twice", client, Method::PATCH, &path, two).await;
            }
            6 => {
                let Some(mut node) = self.get(&path).await else { return };
                node["spec"]["taints"] = json!([entry(effect, value)]);
                if random.percent(50) {
                    node["metadata"]["resourceVersion"] = json!("1");
                }
                self.guarded("put the taint", client, Method::PUT, &path, node).await;
            }
            7 => {
                // A cloud says that the instance is stopped.
                let key = "node.cloudprovider.kubernetes.io/shutdown";
                self.add_taint("cloud shutdown", &path, json!({"key": key, "effect": "NoSchedule"})).await;
            }
            _ => drop(self.guarded("release", client, Method::PATCH, &path, tainted(&Value::Null)).await),
        }
    }

    /// Machines stop and start, Nodes are deleted and created again.
    async fn life(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let name = &machine.name;
        match random.below(10) {
            0..=2 => machine.on.store(false, Ordering::Relaxed),
            3 | 4 if !machine.held.load(Ordering::Relaxed) => {
                machine.boot.fetch_add(1, Ordering::Relaxed);
                machine.on.store(true, Ordering::Relaxed);
                self.renew(machine).await;
            }
            5 => {
                self.guarded("delete", &self.alice, Method::DELETE, &path, json!({})).await;
                let node = json!({"metadata": {"name": name, "labels": {"chaos": "true"}}});
                self.request("create", false, &self.admin, Method::POST, JSON, "/api/v1/nodes", Some(node)).await;
            }
            3 | 4 | 6 | 7 => {
                let node = json!({"metadata": {"name": name, "labels": {"chaos": "true"}}});
                self.request("create", false, &self.admin, Method::POST, JSON, "/api/v1/nodes", Some(node)).await;
            }
            8 => {
                let mut node = json!({"metadata": {"name": name, "annotations": evidence(random, "creator")}});
                if random.percent(50) {
                    node["spec"] = json!({"taints": [entry("NoExecute", "")]});
                }
                self.guarded("create guarded", &self.alice, Method::POST, "/api/v1/nodes", node).await;
            }
            // Whether it is guarded depends on what others did meanwhile.
            _ => {
                let free = json!({"metadata": {"finalizers": null}});
                self.guarded("empty the finalizers", &self.alice, Method::PATCH, &path, free).await;
            }
        }
    }

    /// Forged stamps, kubelets that vouch for a node, and people who break the glass.
    async fn break_rules(&self, random: &mut Random, machine: &Machine) {
        let path = node_path(machine);
        let ago = Timestamp::now() - jiff::SignedDuration::from_mins(4);
        match random.below(6) {
            0 => {
                let stamp = *random.pick(&["placed-at", "recorded-at", "overridden-at", "break-glass-at"]);
                let forged = json!({"metadata": {"annotations": {format!("fencegate.dev/{stamp}"): ago.to_string()}}});
                self.guarded("forge a time", &self.alice, Method::PATCH, &path, forged).await;
            }
            1 => {
                let stamp = *random.pick(&["placed-by", "recorded-by", "overridden-by", "source", "last-outage"]);
                let value = random.pick(&[json!("alice"), json!("bob"), Value::Null]).clone();
                let forged = json!({"metadata": {"annotations": {format!("fencegate.dev/{stamp}"): value}}});
                self.guarded("forge a name", &self.alice, Method::PATCH, &path, forged).await;
            }
            2 => {
                let mut both = tainted(&json!([entry("NoExecute", "")]));
                both["metadata"] = json!({"annotations": evidence(random, "forger")});
                both["metadata"]["annotations"]["fencegate.dev/placed-at"] = json!(ago.to_string());
                self.guarded("place with a stamp", &self.alice, Method::PATCH, &path, both).await;
            }
            3 => {
                let (number, kubelet) =
                    (random.below(3), json!({"metadata": {"annotations": evidence(random, "kubelet")}}));
                let path = format!("/api/v1/nodes/{}", self.machines[usize::try_from(number).unwrap()].name);
                let path = if random.percent(50) { path } else { format!("{path}/status") };
                let client = &self.kubelets[usize::try_from(number).unwrap()];
                self.guarded("vouch for itself", client, Method::PATCH, &path, kubelet).await;
            }
            4 => {
                let place = random.percent(50);
                let mut both = tainted(&if place { json!([entry("NoExecute", "")]) } else { Value::Null });
                both["metadata"] = json!({"annotations": {"fencegate.dev/break-glass": "drill"}});
                self.guarded("break the glass", &self.oncall, Method::PATCH, &path, both).await;
            }
            _ => {
                let drill = json!({"metadata": {"annotations": {"fencegate.dev/break-glass": random.pick(&[json!("drill"), Value::Null])}}});
                self.guarded("break-glass", &self.oncall, Method::PATCH, &path, drill).await;
            }
        }
    }
}
