#!/usr/bin/env bash
# Train a ResNet as resnet-imagenet-caffe's train.sh does, from the folder that this file is in:
#
#   mkdir resnet_50/logs
#   mkdir resnet_50/snapshot
#   ./train.sh 0,1,2,3 resnet_50 resnet_50_
#
#   ./train.sh GPUS NET PREFIX [flags of imgcls-train ...]
#
# NET is resnet_50 or resnet_32. Settings are those of --recipe imagenet-resnet-50-caffe, the data are named in
# NET/data.yaml. Checkpoints go to NET/snapshot/PREFIX-0001.params and so on, the log to NET/logs/PREFIX.log. A run
# that was stopped continues when the same line is given again. GPUS '' trains on the CPU.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 GPUS NET PREFIX [flags of imgcls-train ...]" >&2
    exit 2
fi
gpus=$1 net=$2 prefix=$3
shift 3
cd "$(dirname "$0")"
mkdir -p "$net/logs" "$net/snapshot"
exec "${IMGCLS_TRAIN:-imgcls-train}" --recipe "imagenet-${net/_/-}-caffe" --config "$net/data.yaml" --gpus "$gpus" \
    --model-prefix "$net/snapshot/$prefix" --log-file "$net/logs/$prefix.log" --load-epoch auto "$@"
