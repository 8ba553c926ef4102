// What checks the files in this folder. A module of its own, so that who embeds the library does not depend on it.
module github.com/job-publisher/reactor/deploy

go 1.26.0

require go.yaml.in/yaml/v3 v3.0.4
