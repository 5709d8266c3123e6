//! The harm that each door does, and that the gate prevents it, with machines that write to their
//! disks. `slow` has those that wait for the forced detach.

use std::{process::Output, time::Instant};

use http::Method;
use serde_json::json;

use super::{FORCE, follow, guard, refuses};
use crate::{
    harness::plane::Plane,
    world::{World, accepts, attachments_of, kubectl, of_node, said, until_silent},
};

/// The VolumeAttachment of the database, on the node that it ran on at the start.
async fn attachment(world: &World) -> String {
    let attachments = attachments_of(&world.plane, &world.node).await;
    attachments[0]["metadata"]["name"].as_str().unwrap().to_owned()
}

fn dry_run(plane: &Plane, arguments: &[&str]) -> Output {
    kubectl(plane, &[arguments, &["--dry-run=server", "--wait=false"]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_doors_a_pod_and_its_volume_that_are_deleted_by_hand_lead_to_two_writers() {
    let world = World::start().await;
    let volume = attachment(&world).await;
    world.machine().cut_off();
    world.until_ready(false).await;
    let start = Instant::now();
    accepts(kubectl(&world.plane, &FORCE));
    accepts(kubectl(&world.plane, &["delete", "volumeattachment", &volume, "--wait=false"]));
    world.plane.until("two writers on one disk", async |_| !world.san.corrupted().is_empty()).await;
    println!("two writers {:.1}s after both commands: {}", start.elapsed().as_secs_f64(), world.san.corrupted()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_doors_a_cut_off_machine_stays_the_only_writer_until_it_is_fenced() {
    let world = World::start().await;
    let _gate = guard(&world.plane).await;
    let (plane, node) = (&world.plane, world.node.as_str());
    let volume = attachment(&world).await;
    let delete_volume = ["delete", "volumeattachment", volume.as_str()];
    let delete_node = ["delete", "node", node];
    // The machine works: its kubelet ends what is deleted.
    accepts(dry_run(plane, &FORCE));
    let drain_first = dry_run(plane, &delete_node);
    refuses(&drain_first, "nodes", "UnfencedDeletion");
    assert!(said(&drain_first).contains(&format!("kubectl drain {node} ")), "{}", said(&drain_first));
    refuses(&dry_run(plane, &delete_volume), "attachments", "UnfencedDetach");

    world.machine().cut_off();
    world.until_ready(false).await;
    refuses(&kubectl(plane, &FORCE), "pods", "UnfencedForceDeletion");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "db-0"},
        "deleteOptions": {"gracePeriodSeconds": 0}});
    let evicted =
        plane.api("alice", Method::POST, "/api/v1/namespaces/default/pods/db-0/eviction", Some(eviction)).await;
    let evicted = evicted.unwrap_err();
    assert!(evicted.code == 403 && evicted.message.contains("UnfencedForceDeletion"), "{evicted:?}");
    refuses(&kubectl(plane, &delete_volume), "attachments", "UnfencedDetach");
    let free = r#"{"metadata":{"finalizers":null}}"#;
    let freed = kubectl(plane, &["patch", "volumeattachment", &volume, "--type=merge", "-p", free]);
    refuses(&freed, "attachments", "UnfencedDetach");
    // In two steps: an ordinary deletion first. The kubelet does not answer.
    accepts(kubectl(plane, &["delete", "pod", "db-0", "--wait=false"]));
    refuses(&kubectl(plane, &FORCE), "pods", "UnfencedForceDeletion");
    let refused = kubectl(plane, &delete_node);
    refuses(&refused, "nodes", "UnfencedDeletion");
    // The last finalizer of a Node is its deletion.
    let hold = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    accepts(kubectl(plane, &["patch", "node", node, "-p", hold]));
    accepts(kubectl(plane, &["delete", "node", node, "--wait=false"]));
    refuses(&kubectl(plane, &["patch", "node", node, "-p", free]), "nodes", "UnfencedDeletion");
    assert_eq!((world.san.corrupted(), world.attachments().await), (vec![], 1), "nothing was lost");

    // What the denial says: switch it off, record that, put the node out of service.
    world.machine().power_off();
    until_silent(plane, node).await;
    follow(plane, &refused, "annotate node");
    accepts(dry_run(plane, &delete_volume));
    accepts(kubectl(plane, &["patch", "node", node, "-p", free, "--dry-run=server"]));
    let place_first = kubectl(plane, &FORCE);
    refuses(&place_first, "pods", "UnfencedForceDeletion");
    follow(plane, &place_first, "taint node");
    accepts(dry_run(plane, &FORCE));
    world.until_moved().await;
    plane.until("nothing is attached", async |_| world.attachments().await == 0).await;
    accepts(kubectl(plane, &["patch", "node", node, "-p", free]));
    plane.until("the Node is gone", async |plane| of_node(plane, node).await.is_null()).await;
    assert_eq!((world.san.corrupted(), world.san.disks()), (vec![], 1), "never two writers");
}
