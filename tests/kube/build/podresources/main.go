// The kubelet's own PodResources server, rate limit included, for pods that standard input describes:
// podresources SOCKET <PODS. Says "ready" once it listens, and ends with its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"google.golang.org/grpc"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	wire "k8s.io/kubelet/pkg/apis/podresources/v1"
	limiter "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
)

// Pod is a pod, and what the kubelet has allocated to each of its containers: resource -> identities of devices.
type Pod struct {
	Namespace, Name string
	Containers      []map[string][]string
}

// Node answers what the kubelet's managers of pods and devices would.
type Node []Pod

func (node Node) GetPods() (pods []*core.Pod) {
	for number, one := range node {
		pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: one.Namespace, Name: one.Name, UID: uid(number)}}
		for container := range one.Containers {
			pod.Spec.Containers = append(pod.Spec.Containers, core.Container{Name: fmt.Sprintf("c%d", container)})
		}
		pods = append(pods, pod)
	}
	return pods
}

func (node Node) GetActivePods() []*core.Pod { return node.GetPods() }

func (node Node) GetPodByName(namespace, name string) (*core.Pod, bool) {
	for _, pod := range node.GetPods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

func (node Node) GetDevices(pod, container string) (found []*wire.ContainerDevices) {
	for number, one := range node {
		for index, resources := range one.Containers {
			for resource, ids := range resources {
				if string(uid(number)) == pod && fmt.Sprintf("c%d", index) == container {
					topology := &wire.TopologyInfo{Nodes: []*wire.NUMANode{{ID: 1}}}
					devices := &wire.ContainerDevices{ResourceName: resource, DeviceIds: ids, Topology: topology}
					found = append(found, devices)
				}
			}
		}
	}
	return found
}

func (Node) UpdateAllocatedDevices()                                                {}
func (Node) GetAllocatableDevices() []*wire.ContainerDevices                        { return nil }
func (Node) GetCPUs(string, string) []int64                                         { return []int64{2, 3} }
func (Node) GetAllocatableCPUs() []int64                                            { return nil }
func (Node) GetMemory(string, string) []*wire.ContainerMemory                       { return nil }
func (Node) GetAllocatableMemory() []*wire.ContainerMemory                          { return nil }
func (Node) GetDynamicResources(*core.Pod, *core.Container) []*wire.DynamicResource { return nil }

func uid(number int) types.UID { return types.UID(fmt.Sprintf("uid-%d", number)) }

func main() {
	input := bufio.NewReader(os.Stdin)
	line, err := input.ReadBytes('\n')
	check(err)
	var node Node
	check(json.Unmarshal(line, &node))
	listener, err := net.Listen("unix", os.Args[1])
	check(err)
	ctx := context.Background()
	server := grpc.NewServer(limiter.WithRateLimiter(ctx, "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	providers := podresources.PodResourcesProviders{Pods: node, Devices: node, Cpus: node, Memory: node, DynamicResources: node}
	wire.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(ctx, providers))
	go func() {
		io.Copy(io.Discard, input)
		server.Stop()
	}()
	fmt.Println("ready")
	check(server.Serve(listener))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
