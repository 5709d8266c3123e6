//! Writes that nobody guards, and the things that hold the taint: pods and attachments.

use std::sync::atomic::Ordering;

use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::plane::STRATEGIC,
    random::Random,
    writers::{ATTACHMENTS, JSON, Machine, PODS, Writers, node_path},
};

impl Writers {
    /// Writes that touch neither the taint nor the gate's annotations.
    pub async fn unguarded(&self, random: &mut Random, machine: &Machine, copy: &mut Value) {
        let path = node_path(machine);
        let label = json!({"metadata": {"labels": {"at": random.below(1 << 30).to_string()}}});
        let is_on = machine.on.load(Ordering::Relaxed);
        match random.below(14) {
            0 | 1 => drop(self.patch("label", &path, label).await),
            2 | 3 if is_on => self.condition(machine, "True").await,
            2 | 3 => self.condition(machine, if random.percent(50) { "Unknown" } else { "False" }).await,
            4 | 5 if is_on => self.renew(machine).await,
            4..=6 => {
                let annotation = json!({"metadata": {"annotations": {"example.com/at": random.below(9).to_string()}}});
                self.patch("annotation of others", &path, annotation).await;
            }
            7 => {
                let value = random.below(9).to_string();
                self.add_taint(
                    "taint of others",
                    &path,
                    json!({"key": "example.com/mine", "value": value, "effect": "NoSchedule"}),
                )
                .await;
            }
            8 => drop(self.patch("cordon", &path, json!({"spec": {"unschedulable": random.percent(50)}})).await),
            9 => drop(self.patch("dry run", &format!("{path}?dryRun=All"), label).await),
            10 => {
                let finalizers = json!({"metadata": {"finalizers": ["example.com/hold"]}});
                self.patch("finalizer", &path, finalizers).await;
            }
            // The copy is current, or another writer comes first.
            11 | 12 => {
                let Some(mut node) = self.get(&path).await else { return };
                node["metadata"]["labels"]["at"] = json!(random.below(1 << 30).to_string());
                let (kind, path) =
                    if random.percent(50) { ("put", path) } else { ("put status", format!("{path}/status")) };
                *copy = node.clone();
                self.request(kind, false, &self.admin, Method::PUT, JSON, &path, Some(node)).await;
            }
            // The copy is stale, or of a Node that is gone.
            _ => {
                let Some(name) = copy["metadata"]["name"].as_str() else { return };
                let path = format!("/api/v1/nodes/{name}");
                let path = if random.percent(50) { path } else { format!("{path}/status") };
                self.request("stale put", false, &self.admin, Method::PUT, JSON, &path, Some(copy.clone())).await;
            }
        }
    }

    /// Adds a taint of others as the node controllers do: with the whole list, and with the version
    /// that the list was read from.
    pub async fn add_taint(&self, kind: &'static str, path: &str, taint: Value) {
        let Some(node) = self.get(path).await else { return };
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|other| other["key"] != taint["key"]);
        taints.push(taint);
        let change =
            json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
        self.request(kind, false, &self.admin, Method::PATCH, STRATEGIC, path, Some(change)).await;
    }

    /// Pods and attachments come and go.
    pub async fn things(&self, random: &mut Random, machine: &Machine) {
        let number = random.below(4);
        if random.percent(60) {
            return self.unbind(machine, number).await;
        }
        if number == 3 {
            let attachment = json!({"metadata": {"name": format!("va-{}", machine.name)}, "spec": {"attacher": "other.test",
                "nodeName": machine.name, "source": {"persistentVolumeName": format!("pv-{}", machine.name)}}});
            self.other("attach", Method::POST, ATTACHMENTS, Some(attachment)).await;
            return;
        }
        let mut pod = json!({"metadata": {"name": format!("p{number}-{}", machine.name)}, "spec": {"nodeName": machine.name,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "i"}]}});
        match number {
            0 => pod["metadata"]["labels"] = json!({"statefulset.kubernetes.io/pod-name": "db-0"}),
            1 => pod["spec"]["volumes"] = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]),
            _ => {
                pod["spec"]["volumes"] = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]);
                pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
            }
        }
        self.other("bind", Method::POST, PODS, Some(pod)).await;
    }

    /// Removes a pod or the attachment.
    pub async fn unbind(&self, machine: &Machine, number: u64) {
        let (kind, path) = match number {
            3 => ("detach", format!("{ATTACHMENTS}/va-{}", machine.name)),
            _ => ("unbind", format!("{PODS}/p{number}-{}", machine.name)),
        };
        self.other(kind, Method::DELETE, &path, Some(json!({"gracePeriodSeconds": 0}))).await;
    }
}
