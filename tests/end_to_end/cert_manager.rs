//! The overlay `cert-manager` with cert-manager's own controller, CA injector and webhook, which
//! are installed by its own chart and run with the rights of its own accounts.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::{
    certificates::{bundles, client},
    harness::{
        gate::{Gate, Replica, apply, apply_all_but_webhooks, configuration, is_webhook, rendered},
        plane::Plane,
        process::{Part, free_port, keep},
    },
    replicas::Load,
    world::{lone_node, plane_with_alice, said},
};

const CERTIFICATES: &str = "/apis/cert-manager.io/v1/namespaces/fencegate-system/certificates";
const SECRETS: &str = "/api/v1/namespaces/fencegate-system/secrets";
const SERVING: &str = "fencegate-tls";
const CA: &str = "fencegate-cert-manager-ca";

/// Installs cert-manager. Its processes end with the test.
async fn install(plane: &Plane) -> Vec<Part> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cert-manager");
    let port = free_port();
    let rendered = Command::new(plane.tool("helm"))
        .args(["template", "cert-manager", built.join("chart").to_str().unwrap(), "--namespace=cert-manager"])
        .args(["--set=crds.enabled=true,startupapicheck.enabled=false"])
        .arg(format!("--set=webhook.url.host=localhost:{port}"))
        .env("HOME", plane.folder.path())
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", said(&rendered));
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout).unwrap()).unwrap();
    // Nothing runs pods here.
    objects.retain(|object| !object.is_null() && object["kind"] != "Deployment");
    plane.create("/api/v1/namespaces", json!({"metadata": {"name": "cert-manager"}})).await;
    apply(plane, &objects);
    let start = |name: &str, account: &str, arguments: &[String]| {
        let token = plane.kubectl("admin", &["create", "token", account, "--namespace=cert-manager"], "");
        assert!(token.status.success(), "{}", said(&token));
        let kubeconfig = plane.kubeconfig_of(account, String::from_utf8(token.stdout).unwrap().trim());
        let arguments = [&[name.to_owned()], arguments].concat();
        let log = plane.folder.path().join(format!("{account}.log"));
        let keeper = keep(&built.join("cert-manager"), &arguments, &log, &[("KUBECONFIG", kubeconfig)]);
        Part { name: account.to_owned(), arguments, keeper }
    };
    vec![
        start("controller", "cert-manager", &[]),
        start("cainjector", "cert-manager-cainjector", &[]),
        start("webhook", "cert-manager-webhook", &[port.to_string()]),
    ]
}

/// The data of a Secret; empty where there is none.
async fn data(plane: &Plane, secret: &str) -> BTreeMap<String, String> {
    let read = plane.get(&format!("{SECRETS}/{secret}")).await.unwrap_or_default();
    let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
    read["data"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// The volume with the serving certificate in one replica's pod.
struct Volume {
    folder: PathBuf,
    kubelet: AbortHandle,
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

impl Volume {
    /// Mounts the Secret as a kubelet does: a new folder for each version, and one symlink that is
    /// replaced. A change arrives this much later.
    async fn mount(plane: &Plane, number: usize, delay: Duration) -> Self {
        let folder = plane.folder.path().join(format!("tls-{number}"));
        fs::create_dir(&folder).unwrap();
        plane.until("the certificate is issued", async |plane| data(plane, SERVING).await.len() == 3).await;
        let mut mounted = data(plane, SERVING).await;
        write(&folder, 0, &mounted);
        for name in mounted.keys() {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
        let (client, to) = (plane.client("admin"), folder.clone());
        let kubelet = tokio::spawn(async move {
            let secrets = kube::Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client, "fencegate-system");
            for version in 1.. {
                let now = loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let Ok(secret) = secrets.get(SERVING).await else { continue };
                    let text = |bytes: k8s_openapi::ByteString| String::from_utf8(bytes.0).unwrap();
                    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value)));
                    let now: BTreeMap<String, String> = data.collect();
                    if now != mounted {
                        break now;
                    }
                };
                tokio::time::sleep(delay).await;
                write(&to, version, &now);
                mounted = now;
            }
        });
        Self { folder, kubelet: kubelet.abort_handle() }
    }

    fn argument(&self, name: &str, file: &str) -> String {
        format!("--{name}={}", self.folder.join(file).display())
    }
}

fn write(folder: &Path, version: usize, data: &BTreeMap<String, String>) {
    let name = format!("..{version}");
    fs::create_dir(folder.join(&name)).unwrap();
    for (file, content) in data {
        fs::write(folder.join(&name).join(file), content).unwrap();
    }
    symlink(&name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

/// The gate as the overlay installs it, with two replicas, the second one with a slow kubelet.
async fn guard(plane: &Plane) -> (Gate, Vec<Volume>) {
    let mut gate = Gate::without_replicas().await;
    let objects = rendered(plane, "cert-manager");
    fs::write(plane.folder.path().join("config.yaml"), configuration(&objects)).unwrap();
    let objects = objects.into_iter().map(|object| gate.within_reach(object));
    let (webhooks, others): (Vec<Value>, Vec<Value>) = objects.partition(is_webhook);
    apply_all_but_webhooks(plane, &others).await;
    let mut volumes = Vec::new();
    for (number, delay) in [0, 5].into_iter().enumerate() {
        let volume = Volume::mount(plane, number, Duration::from_secs(delay)).await;
        let [certificate, key] = [volume.argument("tls-cert", "tls.crt"), volume.argument("tls-key", "tls.key")];
        gate.join(plane, Replica::start(plane, number, &[&certificate, &key]).await).await;
        volumes.push(volume);
    }
    apply(plane, &webhooks);
    gate.until_ready(plane).await;
    (gate, volumes)
}

/// Asks for a new certificate, as `cmctl renew` does, and waits until its Secret has it.
async fn renew(plane: &Plane, certificate: &str, secret: &str) {
    let before = data(plane, secret).await;
    let issuing = json!({
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "",
        "lastTransitionTime": jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
    });
    let add = json!([{"op": "add", "path": "/status/conditions/-", "value": issuing}]);
    let path = format!("{CERTIFICATES}/{certificate}/status");
    plane.patch("admin", "application/json-patch+json", &path, add).await.unwrap();
    let is_new = async |plane: &Plane| {
        let now = data(plane, secret).await;
        !now.is_empty() && now["tls.crt"] != before["tls.crt"]
    };
    plane.until("the certificate is renewed", is_new).await;
}

/// Waits until every replica serves what the Secret has, and both configurations have its CA,
/// beside those that cert-manager published before.
async fn until_in_use(plane: &Plane, gate: &Gate) {
    let now = data(plane, SERVING).await;
    let leaf = CertificateDer::from_pem_slice(now["tls.crt"].as_bytes()).unwrap();
    for replica in &gate.replicas {
        let is_served = async |_: &Plane| {
            let Ok(stream) = client(&now["ca.crt"], replica.port).connect().await else { return false };
            stream.get_ref().1.peer_certificates().unwrap()[0] == leaf
        };
        plane.until("the replica serves the new certificate", is_served).await;
    }
    let is_injected =
        async |plane: &Plane| bundles(plane).await.iter().all(|bundle| bundle.contains(now["ca.crt"].trim()));
    plane.until("the CA is in both configurations", is_injected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_manager_issues_injects_and_renews_under_load_without_one_failed_call() {
    let plane = plane_with_alice().await;
    let _cert_manager = install(&plane).await;
    let has_started = async |plane: &Plane| {
        let issuer = json!({"apiVersion": "cert-manager.io/v1", "kind": "Issuer",
            "metadata": {"name": "probe"}, "spec": {"selfSigned": {}}});
        let issuers = "/apis/cert-manager.io/v1/namespaces/default/issuers?dryRun=All";
        plane.api("admin", Method::POST, issuers, Some(issuer)).await.is_ok()
    };
    plane.until("cert-manager's webhook is called", has_started).await;
    let (gate, _volumes) = guard(&plane).await;
    until_in_use(&plane, &gate).await;

    lone_node(&plane, "busy", false).await;
    let load = Load::start(&plane);
    load.goes_on(&plane, 100).await;
    renew(&plane, "fencegate", SERVING).await;
    until_in_use(&plane, &gate).await;
    load.goes_on(&plane, 100).await;
    let until_renewed = load.calls();

    // The CA as well, which is renewed years later, with its key. A certificate of it follows.
    let first = data(&plane, CA).await;
    renew(&plane, "fencegate-ca", CA).await;
    let second = data(&plane, CA).await;
    assert_eq!(second["tls.key"], first["tls.key"], "a certificate of either CA is accepted under the other");
    load.goes_on(&plane, 100).await;
    renew(&plane, "fencegate", SERVING).await;
    until_in_use(&plane, &gate).await;
    assert_eq!(data(&plane, SERVING).await["ca.crt"], second["tls.crt"]);
    load.goes_on(&plane, 100).await;

    // A new key as well, as docs/operations.md says.
    plane.api("admin", Method::DELETE, &format!("{SECRETS}/{CA}"), None).await.unwrap();
    let has_another_key =
        async |plane: &Plane| data(plane, CA).await.get("tls.key").is_some_and(|key| *key != first["tls.key"]);
    plane.until("the CA has another key", has_another_key).await;
    let third = data(&plane, CA).await;
    renew(&plane, "fencegate", SERVING).await;
    until_in_use(&plane, &gate).await;
    assert_eq!(data(&plane, SERVING).await["ca.crt"], third["tls.crt"]);
    load.goes_on(&plane, 100).await;
    let calls = load.calls();
    assert_eq!(load.ends().await, Vec::<String>::new(), "of {calls} calls");
    println!(
        "{until_renewed} guarded writes while the certificate was renewed, {calls} with its CA, and with the key of the CA, none failed"
    );
}
