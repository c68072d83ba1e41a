# gdist in a container, as whoever runs it and not as root:
#
#     docker build -t gdist:cpu .
#     docker build -t gdist:cuda --build-arg VARIANT=cuda .       # then: docker run --gpus all …
#     docker run --rm --init -v gdist-work:/work gdist:cpu demo
#
# What is installed is what requirements.lock pins, with its hashes. The one exception is torch in the variant `cpu`: its
# files are those of PyTorch's CPU index, which the lock has no hashes of, at the lock's version. No package of Debian is
# needed: the wheels bring libsndfile and FFmpeg.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG VARIANT=cpu
ARG EXTRAS="media metrics onnx search"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/gdist/bin:$PATH
RUN python -m venv /opt/gdist
WORKDIR /src
# Only what decides what is installed, so that a change of gdist's code does not install torch again.
COPY pyproject.toml requirements.lock ./
COPY tests/release/lock.py tests/release/
# EXTRAS, and what prints two requirements, are split at their spaces.
# hadolint ignore=SC2086,SC2046
RUN set -eu; \
    case "$VARIANT" in \
        cuda) python tests/release/lock.py $EXTRAS > wanted.txt ;; \
        cpu) python tests/release/lock.py --cpu $EXTRAS > wanted.txt; \
             pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
                 $(python tests/release/lock.py --torch) ;; \
        *) echo "VARIANT is cpu or cuda, not $VARIANT" >&2; exit 1 ;; \
    esac; \
    pip install --no-deps --require-hashes -r wanted.txt
COPY . .
RUN pip install --no-deps --no-build-isolation . && pip check

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="gdist" \
      org.opencontainers.image.description="Distill large speech models offline" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-3.0 AND CC-BY-SA-3.0 AND CC-BY-SA-4.0"
COPY --from=build /opt/gdist /opt/gdist
# Which devices a container sees, and for what: read by NVIDIA's container toolkit, by nobody else.
ENV PATH=/opt/gdist/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# /work is where commands run and write; /demo is the speech and the teacher that ship with gdist.
RUN useradd --create-home --uid 1000 gdist && mkdir /work && chown gdist:gdist /work && \
    ln -s "$(python -c 'from gdist.data_manifests import demo_folder; print(demo_folder())')" /demo
USER 1000
WORKDIR /work
ENTRYPOINT ["gdist"]
CMD ["--help"]
