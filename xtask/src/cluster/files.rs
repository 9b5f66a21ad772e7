//! What the parts of the node are configured by. All of it is text made from two paths.

use serde_json::{Value, json};

/// The node, its address on its own bridge, and where its API server listens.
pub const NODE: &str = "node";
pub const ADDRESS: &str = "10.42.0.1";
pub const BRIDGE: &str = "node0";
pub const API: &str = "https://10.42.0.1:6443";
/// Pods are on the bridge; Services have addresses of their own.
pub const PODS: &str = "10.42.0.0/24";
pub const SERVICES: &str = "10.43.0.0/16";
pub const DNS: &str = "10.43.0.10";
/// The image that holds a pod's namespaces open.
pub const PAUSE: &str = "airlock.invalid/pause:1";

/// Who asks the API server: file of the kubeconfig, user, groups. Tokens and not certificates, since nobody outside the
/// namespace can try one.
pub const USERS: &[(&str, &str, &str)] = &[
    ("admin", "admin", "system:masters"),
    ("controllers", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", "system:node:node", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    ("dns", "coredns", ""),
];

/// Where things are: the cluster's directory, and the program that `xtask/cluster` is built to.
pub struct Paths<'a> {
    pub dir: &'a str,
    pub program: &'a str,
}

impl Paths<'_> {
    /// Every file: its name below the directory, and its content.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        vec![
            ("start.sh", self.start()),
            ("parts.json", self.parts()),
            ("containerd.toml", self.containerd()),
            ("cni/pods.conflist", cni()),
            ("kubelet.yaml", self.kubelet()),
            ("proxy.yaml", self.proxy()),
            ("Corefile", self.corefile()),
            ("objects.json", objects(self.dir)),
            // Nothing to ask outside: names that the cluster does not know do not exist.
            ("resolv.conf", String::new()),
        ]
    }

    /// The first program in the node's namespaces: mounts what the parts must not share with the machine, and becomes the
    /// supervisor.
    fn start(&self) -> String {
        let Self { dir, program } = self;
        format!(
            r#"set -e
mount --make-rprivate /
mount -t proc proc /proc
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The parts have paths of their own that no setting moves; here they have them to themselves.
mount -t tmpfs tmpfs /run
mount --bind {dir}/lib /var/lib
mount --bind {dir}/log /var/log
# kubelet wants settings of the kernel that are the whole machine's. It is shown files that have them.
while read -r name value; do
    [ -e "/proc/sys/$name" ] || continue
    file={dir}/sysctl/$(echo "$name" | tr / .)
    echo "$value" > "$file"
    mount --bind "$file" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
exec {program} supervise {dir}/parts.json {dir}/log
"#
        )
    }

    /// What the supervisor runs.
    fn parts(&self) -> String {
        let Self { dir, program } = self;
        let part = |name: &str, command: &[&str]| {
            let fill = |word: &&str| word.replace("DIR", dir).replace("PROGRAM", program);
            json!({"name": name, "command": command.iter().map(fill).collect::<Vec<_>>()})
        };
        let parts: Vec<Value> = vec![
            part(
                "etcd",
                &[
                    "etcd",
                    "--data-dir=/var/lib/etcd",
                    "--listen-client-urls=http://127.0.0.1:2379",
                    "--advertise-client-urls=http://127.0.0.1:2379",
                    "--listen-peer-urls=http://127.0.0.1:2380",
                    "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                    "--initial-cluster=default=http://127.0.0.1:2380",
                ],
            ),
            part("containerd", &["containerd", "--config", "DIR/containerd.toml"]),
            part(
                "kube-apiserver",
                &[
                    "PROGRAM",
                    "kube-apiserver",
                    "--etcd-servers=http://127.0.0.1:2379",
                    &format!("--advertise-address={ADDRESS}"),
                    &format!("--service-cluster-ip-range={SERVICES}"),
                    "--allow-privileged",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    // Beta in 1.34, and off unless asked for.
                    "--feature-gates=MutatingAdmissionPolicy=true",
                    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
                    "--token-auth-file=DIR/pki/tokens.csv",
                    "--client-ca-file=DIR/pki/ca.pem",
                    "--tls-cert-file=DIR/pki/api.pem",
                    "--tls-private-key-file=DIR/pki/api.key",
                    "--kubelet-client-certificate=DIR/pki/kubelet-client.pem",
                    "--kubelet-client-key=DIR/pki/kubelet-client.key",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--service-account-key-file=DIR/pki/accounts.pub",
                    "--service-account-signing-key-file=DIR/pki/accounts.key",
                ],
            ),
            part(
                "kube-controller-manager",
                &[
                    "PROGRAM",
                    "kube-controller-manager",
                    "--kubeconfig=DIR/controllers.kubeconfig",
                    "--bind-address=127.0.0.1",
                    "--leader-elect=false",
                    "--use-service-account-credentials",
                    "--service-account-private-key-file=DIR/pki/accounts.key",
                    "--root-ca-file=DIR/pki/ca.pem",
                ],
            ),
            part(
                "kube-scheduler",
                &[
                    "PROGRAM",
                    "kube-scheduler",
                    "--kubeconfig=DIR/scheduler.kubeconfig",
                    "--bind-address=127.0.0.1",
                    "--leader-elect=false",
                ],
            ),
            part(
                "kubelet",
                &[
                    "PROGRAM",
                    "kubelet",
                    "--config=DIR/kubelet.yaml",
                    "--kubeconfig=DIR/kubelet.kubeconfig",
                    &format!("--hostname-override={NODE}"),
                    &format!("--node-ip={ADDRESS}"),
                ],
            ),
            part("kube-proxy", &["PROGRAM", "kube-proxy", "--config=DIR/proxy.yaml"]),
            part("coredns", &["PROGRAM", "coredns", "-conf", "DIR/Corefile"]),
        ];
        Value::from(parts).to_string()
    }

    fn containerd(&self) -> String {
        let dir = self.dir;
        format!(
            r#"version = 2
# Snapshotters that need what is not here.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{dir}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Without CAP_SYS_RESOURCE nobody's OOM score can be lowered.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{dir}/certs.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
        )
    }

    fn kubelet(&self) -> String {
        let dir = self.dir;
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": format!("{dir}/pki/ca.pem")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", super::NAME),
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": format!("unix://{dir}/containerd.sock"),
            "enforceNodeAllocatable": [],
            // A nearly full disk of a developer's machine is no reason to end pods, nor to remove images that tests count.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "failCgroupV1": false,
            "failSwapOn": false,
            // What it is already: lowering it needs CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "resolvConf": format!("{dir}/resolv.conf"),
            "serializeImagePulls": false,
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        })
        .to_string()
    }

    fn proxy(&self) -> String {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": format!("{}/proxy.kubeconfig", self.dir)},
            "clusterCIDR": PODS,
            "hostnameOverride": NODE,
            "mode": "iptables",
            // Pods share a bridge: an answer that need not pass the node would not be translated back.
            "iptables": {"masqueradeAll": true},
            // These are the whole machine's, and not to be written from a namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        })
        .to_string()
    }

    fn corefile(&self) -> String {
        format!(
            "cluster.local in-addr.arpa {{\n    errors\n    ready {ADDRESS}:8181\n    cache 5\n    \
             kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {}/dns.kubeconfig\n        pods insecure\n    \
             }}\n}}\n",
            self.dir
        )
    }

    /// How somebody of [`USERS`] reaches the API server.
    pub fn kubeconfig(&self, token: &str) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": super::NAME,
                "cluster": {"server": API, "certificate-authority": format!("{}/pki/ca.pem", self.dir)},
            }],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": super::NAME, "context": {"cluster": super::NAME, "user": "user"}}],
            "current-context": super::NAME,
        })
        .to_string()
    }
}

fn cni() -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS, "rangeStart": "10.42.0.10", "gateway": ADDRESS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}

/// What the API server is given first. CoreDNS is a process of the node: it may read names, and a Service is in front of it.
/// Volumes are directories, for claims that name no class.
fn objects(dir: &str) -> String {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let rbac = format!("{RBAC}/v1");
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]);
    let mut items = vec![
        json!({
            "apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "coredns"},
            "rules": [{
                "apiGroups": ["", "discovery.k8s.io"],
                "resources": ["services", "pods", "namespaces", "endpointslices"],
                "verbs": ["list", "watch"],
            }],
        }),
        json!({
            "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "coredns"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "coredns"}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS, "ports": ports},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4", "endpoints": [{"addresses": [ADDRESS]}], "ports": ports,
        }),
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        }),
    ];
    items.extend(volumes().map(|name| {
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]});
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "storageClassName": "local", "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": format!("{dir}/volumes/{name}")},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        })
    }));
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Names of the volumes; nobody empties one that was used but [`super::Cluster::up`].
pub fn volumes() -> impl Iterator<Item = String> {
    (0..40).map(|number| format!("volume-{number}"))
}
