// Command check reads Kubernetes manifests on stdin and prints what would be refused: by an API server, whose own
// decoding, defaulting and validation it runs; by the definition of a custom resource; or by the Pod Security standard
// "restricted". The definitions are in the directory `crds` beside the program.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	podsecurity "k8s.io/pod-security-admission/admission"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// strategies are what the API server runs when an object of a kind is created.
var strategies = map[string]rest.RESTCreateStrategy{
	"ConfigMap":               configmap.Strategy,
	"Deployment":              deployment.Strategy,
	"HorizontalPodAutoscaler": horizontalpodautoscaler.Strategy,
	"Ingress":                 ingress.Strategy,
	"NetworkPolicy":           networkpolicy.Strategy,
	"Pod":                     pod.Strategy,
	"PodDisruptionBudget":     poddisruptionbudget.Strategy,
	"Secret":                  secret.Strategy,
	"Service":                 service.Strategy,
	"ServiceAccount":          serviceaccount.Strategy,
	"StatefulSet":             statefulset.Strategy,
}

func main() {
	checked, refused := 0, 0
	if err := each(os.Stdin, func(document []byte) {
		name, err := check(document)
		checked++
		if err != nil {
			refused++
			fmt.Printf("%s: %v\n", name, err)
		}
	}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "%d objects checked, %d refused\n", checked, refused)
	if refused > 0 || checked == 0 {
		os.Exit(1)
	}
}

// each calls f with every document that holds more than comments.
func each(manifests io.Reader, f func([]byte)) error {
	reader := yaml.NewYAMLReader(bufio.NewReader(manifests))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading manifests: %w", err)
		}
		var content any
		if yaml.Unmarshal(document, &content) != nil || content != nil {
			f(document)
		}
	}
}

// check returns an object's name, and why it would be refused.
func check(document []byte) (string, error) {
	var object unstructured.Unstructured
	if err := yaml.UnmarshalStrict(document, &object.Object); err != nil {
		return "a document", err
	}
	name := object.GetKind() + "/" + object.GetName()
	kind := object.GroupVersionKind()
	if !legacyscheme.Scheme.Recognizes(kind) {
		return name, custom(kind, object.Object)
	}
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	typed, _, err := codecs.UniversalDeserializer().Decode(document, nil, nil)
	if err != nil {
		return name, err
	}
	legacyscheme.Scheme.Default(typed)
	return name, errors.Join(builtin(kind, typed), restricted(typed))
}

// builtin does what the API server does when an object of one of its own kinds is created.
func builtin(kind runtimeschema.GroupVersionKind, typed runtime.Object) error {
	strategy, known := strategies[kind.Kind]
	if !known {
		return fmt.Errorf("%s has no strategy in this program: add it", kind)
	}
	internal := runtimeschema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal}
	object, err := legacyscheme.Scheme.ConvertToVersion(typed, internal)
	if err != nil {
		return err
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	if accessor.GetNamespace() == "" {
		accessor.SetNamespace("default")
	}
	rest.FillObjectMetaSystemFields(accessor)
	ctx := request.WithNamespace(context.Background(), accessor.GetNamespace())
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{APIGroup: kind.Group, APIVersion: kind.Version})
	if err := rest.BeforeCreate(strategy, ctx, object); err != nil {
		return err
	}
	if warnings := strategy.WarningsOnCreate(ctx, object); len(warnings) > 0 {
		return fmt.Errorf("the API server warns: %q", warnings)
	}
	return nil
}

// restricted evaluates the pod, or the pod template, of an object that has one.
func restricted(typed runtime.Object) error {
	metadata, spec, err := podsecurity.DefaultPodSpecExtractor{}.ExtractPodSpec(typed)
	if err != nil || spec == nil {
		return nil
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, metadata, spec))
	if !result.Allowed {
		return fmt.Errorf("pod security %q forbids: %s", level.Level, result.ForbiddenDetail())
	}
	return nil
}

// custom checks an object against the definition of its kind, rules in CEL included.
func custom(kind runtimeschema.GroupVersionKind, object map[string]any) error {
	props, err := definition(kind)
	if err != nil {
		return err
	}
	structural, err := schema.NewStructural(props)
	if err != nil {
		return err
	}
	options := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	unknown := pruning.PruneWithOptions(runtime.DeepCopyJSON(object), structural, true, options)
	defaulting.Default(object, structural)
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return err
	}
	problems := validation.ValidateCustomResource(nil, object, validator)
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	broken, _ := rules.Validate(context.Background(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
	problems = append(problems, broken...)
	for _, path := range unknown {
		problems = append(problems, field.Invalid(field.NewPath(path), "", "unknown field"))
	}
	return problems.ToAggregate()
}

// definition finds the schema of a custom resource among the files of `crds`.
func definition(kind runtimeschema.GroupVersionKind) (*apiextensions.JSONSchemaProps, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(program), "crds", "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096).Decode(&crd); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if crd.Spec.Group != kind.Group || crd.Spec.Names.Kind != kind.Kind {
			continue
		}
		for _, version := range crd.Spec.Versions {
			if version.Name == kind.Version && version.Served {
				props := &apiextensions.JSONSchemaProps{}
				err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, props, nil)
				return props, err
			}
		}
	}
	return nil, fmt.Errorf("%s is neither Kubernetes' own nor defined in crds", kind)
}
