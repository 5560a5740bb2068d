// Command fakegpu is a kubelet device plugin for GPUs that do not exist. It goes the way the vendor's plugin
// goes, so the scheduler and the kubelet count, hand out and lose these devices as they would real ones.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const resource = "nvidia.com/gpu"

type server struct {
	plugin.UnimplementedDevicePluginServer
	count int
}

func (s *server) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

func (s *server) ListAndWatch(_ *plugin.Empty, stream grpc.ServerStreamingServer[plugin.ListAndWatchResponse]) error {
	devices := make([]*plugin.Device, s.count)
	for i := range devices {
		devices[i] = &plugin.Device{ID: fmt.Sprintf("fake-gpu-%d", i), Health: plugin.Healthy}
	}
	if err := stream.Send(&plugin.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-stream.Context().Done() // the devices never change; the kubelet ends the stream when it goes
	return nil
}

func (s *server) Allocate(_ context.Context, request *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	answer := &plugin.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &plugin.ContainerAllocateResponse{
			Envs: map[string]string{"LORA_FAKE_GPUS": fmt.Sprint(len(container.DevicesIds))},
		})
	}
	return answer, nil
}

// serve registers with the kubelet behind socket and returns when that kubelet is gone.
func serve(ctx context.Context, dir string, count int) error {
	kubelet := filepath.Join(dir, "kubelet.sock")
	born, err := os.Stat(kubelet)
	if err != nil {
		return err
	}
	own := filepath.Join(dir, "fakegpu.sock")
	if err := os.Remove(own); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", own)
	if err != nil {
		return err
	}
	rpc := grpc.NewServer()
	defer rpc.Stop()
	plugin.RegisterDevicePluginServer(rpc, &server{count: count})
	go func() { _ = rpc.Serve(listener) }()

	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = plugin.NewRegistrationClient(connection).Register(ctx, &plugin.RegisterRequest{
		Version: plugin.Version, Endpoint: filepath.Base(own), ResourceName: resource,
	})
	if err != nil {
		return err
	}
	log.Printf("registered %d x %s", count, resource)
	for {
		time.Sleep(500 * time.Millisecond)
		// A restarted kubelet wipes the folder and makes a new socket: register again.
		// Its time tells, too: file systems give a freed inode to the next file.
		now, err := os.Stat(kubelet)
		if err != nil || !os.SameFile(born, now) || !now.ModTime().Equal(born.ModTime()) {
			return fmt.Errorf("the kubelet's socket changed")
		}
	}
}

func main() {
	dir := flag.String("dir", "/var/lib/kubelet/device-plugins", "the kubelet's device plugin folder")
	count := flag.Int("count", 4, "how many GPUs to advertise")
	flag.Parse()
	for {
		err := serve(context.Background(), *dir, *count)
		log.Printf("registering again: %v", err)
		time.Sleep(100 * time.Millisecond)
	}
}
