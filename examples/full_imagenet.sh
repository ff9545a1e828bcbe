#!/usr/bin/env bash
# The full ImageNet of MXNet's tutorial "Large Scale Image Classification", twice: with the tutorial's own shell
# loops, which extract 1.2 TB, and with one command that extracts nothing. Both make the same lists, records and
# weights, which is compared at the end.
#
#   examples/full_imagenet.sh WORK            300 drawn classes, a minute
#   TAR=fall11_whole.tar MIN=500 VAL=50 RESIZE=480 examples/full_imagenet.sh WORK            the real thing
#
# WORK is an empty folder. The tutorial keeps classes with more than MIN images (its text says "fewer than", its
# loop -gt), so --min-images is one more here.
set -euo pipefail

WORK=$(mkdir -p "$1" && cd "$1" && pwd)
export MXNET=$(cd "$(dirname "$0")/.." && pwd)
export PYTHON=${PYTHON:-python}
export CLASSES=${CLASSES:-300} MIN=${MIN:-12} VAL=${VAL:-4} RESIZE=${RESIZE:-24} THREADS=${THREADS:-2}
export TAR=$(realpath "${TAR:-$WORK/fall11_whole.tar}")
export NAME=full_imagenet_500_filtered
export PYTHONPATH=$MXNET${PYTHONPATH:+:$PYTHONPATH}
cd "$WORK"

if [ ! -e "$TAR" ]; then
    echo "== drawing $CLASSES classes into $TAR"
    "$PYTHON" "$MXNET/examples/draw_classes.py" "$TAR" "$CLASSES"
fi

echo "== one command: filter, validation set, 8 lists, records"
mkdir -p ours
"$PYTHON" -m imgcls im2rec ours/$NAME "$TAR" --recursive --min-images $((MIN + 1)) --val-per-class "$VAL" --chunks 8 \
    --resize "$RESIZE" --quality 90 --num-thread "$THREADS" > ours.log
cut -f 3 ours/${NAME}_val.lst > val_names

echo "== the tutorial's lines"
mkdir -p theirs
(
    cd theirs
    python() { "$PYTHON" "$@"; }
    # The tutorial draws anew in each run. Here the same images are to be drawn as above.
    shuf() { grep -F -f "$WORK/val_names"; }

    export ROOT=full
    mkdir $ROOT
    tar -xf "$TAR" -C $ROOT
    for i in $ROOT/*.tar; do j=${i%.*}; mkdir -p $j; tar -xf $i -C $j; done
    rm $ROOT/*.tar

    BAK=${ROOT}_filtered
    mkdir -p ${BAK}
    for c in ${ROOT}/n*; do
        count=`ls $c/*.JPEG | wc -l`
        if [ "$count" -gt "$MIN" ]; then
            :
        else
            mv $c ${BAK}/
        fi
    done

    VAL_ROOT=${ROOT}_val
    mkdir -p ${VAL_ROOT}
    for i in ${ROOT}/n*; do
        c=`basename $i`
        mkdir -p ${VAL_ROOT}/$c
        for j in `ls $i/*.JPEG | shuf | head -n $VAL`; do
            mv $j ${VAL_ROOT}/$c/
        done
    done

    mkdir -p train_meta
    python ${MXNET}/tools/im2rec.py --list True --chunks 8 --recursive True train_meta/${NAME} ${ROOT}
    python ${MXNET}/tools/im2rec.py --resize $RESIZE --quality 90 --num-thread 16 train_meta/${NAME} ${ROOT}
    mkdir -p train
    mv train_meta/*.rec train/

    mkdir -p val_meta
    python ${MXNET}/tools/im2rec.py --list True --recursive True val_meta/${NAME} ${VAL_ROOT}
    python ${MXNET}/tools/im2rec.py --resize $RESIZE --quality 90 --num-thread 16 val_meta/${NAME} ${VAL_ROOT}
    mkdir -p val
    mv val_meta/*.rec val/
) > theirs.log

echo "== the same lists and records?"
for i in 0 1 2 3 4 5 6 7; do
    cmp ours/${NAME}_${i}_train.lst theirs/train_meta/${NAME}_$i.lst
    cmp ours/${NAME}_${i}_train.rec theirs/train/${NAME}_$i.rec
    cmp ours/${NAME}_${i}_train.idx theirs/train_meta/${NAME}_$i.idx
done
cmp ours/${NAME}_val.lst theirs/val_meta/$NAME.lst
cmp ours/${NAME}_val.rec theirs/val/$NAME.rec
echo "   $(cat ours/*_train.lst | wc -l) training and $(wc -l < ours/${NAME}_val.lst) validation images of" \
    "$(wc -l < ours/$NAME.classes.txt) classes: the same bytes"

echo "== two epochs with each"
mkdir -p train
mv ours/*_train.rec train/
for who in ours theirs; do
    data=$([ $who = ours ] && echo train || echo theirs/train)
    val=$([ $who = ours ] && echo ours/${NAME}_val.rec || echo theirs/val/$NAME.rec)
    "$PYTHON" "$MXNET/scripts/train_imagenet.py" --network ${NETWORK:-mlp} --gpus "${GPUS-}" --data-train $data \
        --data-val $val --image-shape ${IMAGE_SHAPE:-3,24,24} --num-classes "$(wc -l < ours/$NAME.classes.txt)" \
        --num-examples "$(cat ours/*_train.lst | wc -l)" --num-epochs 2 --batch-size 64 --lr 0.01 --rgb-std 60,60,60 \
        --model-prefix model/$who > $who.train.log 2>&1
    grep -E "Validation-accuracy" $who.train.log
done
cmp model/ours-0002.params model/theirs-0002.params
echo "   the same weights"
