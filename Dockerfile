# The CPU image: docker build -t emola-edge . ; docs/containers.md says how to run it.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE constraints.txt ./
COPY sdk sdk
COPY trainer trainer
COPY export export
RUN python3 -m venv /opt/emola \
    && /opt/emola/bin/pip install --no-cache-dir --constraint constraints.txt '.[cpu,hub,serve]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/emola /opt/emola
RUN useradd --uid 10001 --no-create-home emola && install -d -o emola /cache
ENV PATH=/opt/emola/bin:$PATH EMOLA_CACHE=/cache HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["emola"]
CMD ["serve", "--host", "0.0.0.0"]
