//! Pods and events, as far as waiting and audit read them.

use serde::Deserialize;

use super::Metadata;
use super::node::Condition;

/// A pod.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Which one.
    pub metadata: Metadata,
    /// What it should be.
    #[serde(default)]
    pub spec: Spec,
    /// What it is.
    #[serde(default)]
    pub status: Status,
}

/// What owns an object.
#[derive(Clone, Debug, Deserialize)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A pod's specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Containers.
    pub containers: Vec<Container>,
    /// Those that run before.
    pub init_containers: Vec<Container>,
    /// Those that somebody added for a look inside.
    pub ephemeral_containers: Vec<Container>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

/// A container as it is wanted.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image; a pod may leave it to a controller.
    #[serde(default)]
    pub image: String,
}

/// A volume.
#[derive(Clone, Debug, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// There if it is an image.
    #[serde(default)]
    pub image: Option<VolumeImage>,
}

/// The image that a volume is.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct VolumeImage {
    /// Its reference.
    #[serde(default)]
    pub reference: String,
}

/// A pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: String,
    /// Why it failed, as a whole.
    pub reason: String,
    /// The same for a person.
    pub message: String,
    pub(super) conditions: Vec<Condition>,
    /// Containers.
    pub container_statuses: Vec<ContainerStatus>,
    /// Those that run before.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Those that somebody added.
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
}

/// A container as it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// What it runs, as the runtime says it; empty before it was pulled.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// How often it was started again.
    pub restart_count: u32,
    /// What it does now.
    pub state: State,
    /// What it did before.
    pub last_state: State,
    /// Volumes, where the kubelet says what image they are (Kubernetes 1.35, `ImageVolumeWithDigest`).
    pub volume_mounts: Vec<MountStatus>,
}

/// What a container does: one of these is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    /// It waits.
    pub waiting: Option<Why>,
    /// It runs.
    pub running: Option<serde::de::IgnoredAny>,
    /// It has ended.
    pub terminated: Option<Why>,
}

/// Why a container waits, or has ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Why {
    /// In one word, such as `ImagePullBackOff`.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Of a container that has ended.
    pub exit_code: i32,
}

/// A mounted volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MountStatus {
    /// The volume's name.
    pub name: String,
    /// There for some kinds of volumes.
    pub volume_status: VolumeStatus,
}

/// What a kubelet says of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// There if it is an image.
    pub image: Option<VolumeImageStatus>,
}

/// The image that a volume is, as it was pulled.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeImageStatus {
    /// With its digest.
    pub image_ref: String,
}

/// An event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// Which one.
    pub metadata: Metadata,
    /// What it is about.
    pub involved_object: Involved,
    /// In one word.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// When it was last seen (RFC 3339).
    pub last_timestamp: Option<String>,
    /// The same, of newer reporters.
    pub event_time: Option<String>,
}

/// What an event is about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Involved {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl Pod {
    /// Why no node takes it, if the scheduler said so.
    #[must_use]
    pub fn unschedulable(&self) -> Option<&str> {
        let condition = self.status.conditions.iter().find(|c| c.kind == "PodScheduled")?;
        (condition.status == "False").then_some(&*condition.message)
    }

    /// Whether it is ready, or has done what it should.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.phase == "Succeeded"
            || self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

impl Event {
    /// When it was last seen; comparable as text.
    #[must_use]
    pub fn when(&self) -> &str {
        let times = [&self.last_timestamp, &self.event_time];
        times.into_iter().flatten().map(String::as_str).max().unwrap_or(&self.metadata.creation_timestamp)
    }
}
